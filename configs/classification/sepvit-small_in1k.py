# SepViT-Small on ImageNet-1K, 224 x 224: top-1 accuracy 83.6
# (arXiv 2203.15380v4); no weights were published.
# Drop path as in the published dense network.
_base_ = '_base_/sepvit.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3), head=dict(in_channels=768))
