# CAS-ViT-S. Its weights are on a drive that serves browsers only: save
# https://drive.google.com/file/d/1facFRq8s8oelYUtK1fj3fcfdoWoKDBQQ and name the file in init_cfg.
channels = [48, 64, 128, 256]
backbone = dict(
    type='vitbackbones.CASViT',
    arch='s',
    drop_path_rate=0.0,
    norm_eval=True,  # published so: BatchNorm statistics stay, its weights are trained
)
