# GC ViT-XT on ImageNet-1K, 224 x 224, tested on 224 of 256 pixels: top-1 accuracy 82.0
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05. timm's of 2022-08 have 82.0,
# on 224 of 256 pixels.
_base_ = '_base_/gcvit.py'
model = dict(backbone=dict(arch='xtiny'), head=dict(in_channels=512))
