# SepViT-Lite on ImageNet-1K, 224 x 224: top-1 accuracy 72.3
# (arXiv 2203.15380v1, table 8); no weights were published.
# ours: drop path, half of the tiny one's; none was published.
_base_ = '_base_/sepvit.py'
model = dict(backbone=dict(arch='lite', drop_path_rate=0.1), head=dict(in_channels=256))
