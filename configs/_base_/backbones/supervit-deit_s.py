# SuperViT on DeiT-S. Its weights are on a drive that serves browsers only: save
# https://drive.google.com/file/d/1y2-zU5UvHqGCmWEB41VLbnf7B27BatBL and name the file in init_cfg.
channels = [384, 384, 384, 384]
backbone = dict(
    type='vitbackbones.SuperViT',
    arch='deit_s',
    drop_path_rate=0.1,  # ours: the classifier's, and ViTDet's for 12 blocks
)
