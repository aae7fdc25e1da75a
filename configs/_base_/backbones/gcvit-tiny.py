# GC ViT-T, windows of 24 in all levels. Weights: CC BY-NC-SA 4.0, non-commercial.
channels = [64, 128, 256, 512]
backbone = dict(
    type='vitbackbones.GCViT',
    arch='tiny',
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
