# SHViT-S4: three maps, at strides 16, 32 and 64.
channels = [224, 336, 448]
backbone = dict(
    type='vitbackbones.SHViT',
    arch='s4',
    drop_path_rate=0.0,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
