# SHViT-S1 on ImageNet-1K, 224 x 224: top-1 accuracy 72.8
# (https://github.com/ysj9909/SHViT, README), of the published plain weights.
_base_ = '_base_/shvit.py'
model = dict(backbone=dict(arch='s1'), head=dict(in_channels=320))
optim_wrapper = dict(optimizer=dict(weight_decay=0.025))
