# CAS-ViT-T. Its weights are on a drive that serves browsers only: save
# https://drive.google.com/file/d/1NqoIUPbwBC91RTjTUvubAbOfGqo1VYT0 and name the file in init_cfg.
channels = [96, 128, 256, 512]
backbone = dict(
    type='vitbackbones.CASViT',
    arch='t',
    drop_path_rate=0.1,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
)
