# CAS-ViT-XS. Its weights are on a drive that serves browsers only: save
# https://drive.google.com/file/d/16wKcwF6QMW5w_lyPYnDKjMNuoxQDfrLK and name the file in init_cfg.
channels = [48, 56, 112, 220]
backbone = dict(
    type='vitbackbones.CASViT',
    arch='xs',
    drop_path_rate=0.0,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
)
