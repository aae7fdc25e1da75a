# GC ViT-T2 on ImageNet-1K, 224 x 224, tested on 224 of 256 pixels: top-1 accuracy 83.7
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05.
_base_ = '_base_/gcvit.py'
model = dict(backbone=dict(arch='tiny2', drop_path_rate=0.25), head=dict(in_channels=512))
