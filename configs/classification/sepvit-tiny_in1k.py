# SepViT-Tiny on ImageNet-1K, 224 x 224: top-1 accuracy 82.7
# (arXiv 2203.15380v4); no weights were published. Version 1 has 82.5.
_base_ = '_base_/sepvit.py'
model = dict(backbone=dict(arch='tiny', drop_path_rate=0.2), head=dict(in_channels=768))
