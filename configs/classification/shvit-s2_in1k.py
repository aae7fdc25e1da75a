# SHViT-S2 on ImageNet-1K, 224 x 224: top-1 accuracy 75.2
# (https://github.com/ysj9909/SHViT, README), of the published plain weights.
_base_ = '_base_/shvit.py'
model = dict(backbone=dict(arch='s2'), head=dict(in_channels=448))
optim_wrapper = dict(optimizer=dict(weight_decay=0.032))
