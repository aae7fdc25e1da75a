# SepViT-S. No weights were ever published: init_cfg stays None, or names a file of your own.
channels = [96, 192, 384, 768]
backbone = dict(type='vitbackbones.SepViT', arch='small', drop_path_rate=0.3)
