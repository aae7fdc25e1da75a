# SepViT-Base on ImageNet-1K, 224 x 224: top-1 accuracy 84.2
# (arXiv 2203.15380v4); no weights were published. Version 1 has 84.0.
# Drop path as in the published dense network; a secondary source has a weight decay of 0.1.
_base_ = '_base_/sepvit.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
