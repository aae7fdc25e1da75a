# GC ViT-XXT on ImageNet-1K, 224 x 224, tested on whole images: top-1 accuracy 79.9
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05. timm's of 2022-08 have 79.8,
# on 224 of 256 pixels.
_base_ = '_base_/gcvit_whole.py'
model = dict(backbone=dict(arch='xxtiny'), head=dict(in_channels=512))
