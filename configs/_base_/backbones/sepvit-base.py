# SepViT-B. No weights were ever published: init_cfg stays None, or names a file of your own.
channels = [128, 256, 512, 1024]
backbone = dict(type='vitbackbones.SepViT', arch='base', drop_path_rate=0.5)
