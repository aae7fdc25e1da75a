# GC ViT-XXT, windows of 24 in all levels. Weights: CC BY-NC-SA 4.0, non-commercial.
channels = [64, 128, 256, 512]
backbone = dict(
    type='vitbackbones.GCViT',
    arch='xxtiny',
    drop_path_rate=0.2,  # ours: the classifier's; only the tiny one has a published dense rate
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
