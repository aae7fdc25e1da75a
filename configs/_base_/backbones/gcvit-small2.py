# GC ViT-S2, windows of 24 in all levels. Weights: CC BY-NC-SA 4.0, non-commercial.
channels = [96, 192, 384, 768]
backbone = dict(
    type='vitbackbones.GCViT',
    arch='small2',
    drop_path_rate=0.35,  # ours: the classifier's; only the tiny one has a published dense rate
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
