# SepViT-Lite. No weights were ever published: init_cfg stays None, or names a file of your own.
channels = [32, 64, 128, 256]
backbone = dict(
    type='vitbackbones.SepViT',
    arch='lite',
    drop_path_rate=0.1,  # ours: half of the tiny one's; no dense rate was published
)
