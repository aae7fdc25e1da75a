# SHViT-S1: three maps, at strides 16, 32 and 64.
channels = [128, 224, 320]
backbone = dict(
    type='vitbackbones.SHViT',
    arch='s1',
    drop_path_rate=0.0,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
