# CAS-ViT-M. Its weights are on a drive that serves browsers only: save
# https://drive.google.com/file/d/13sQpSEf0h_uuh0jRy9V0yIW6ZsbDpVGy and name the file in init_cfg.
channels = [64, 96, 192, 384]
backbone = dict(
    type='vitbackbones.CASViT',
    arch='m',
    drop_path_rate=0.1,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
)
