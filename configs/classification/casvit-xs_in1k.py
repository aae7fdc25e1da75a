# CAS-ViT-XS on ImageNet-1K, 224 x 224: top-1 accuracy 78.3
# (https://github.com/Tianfang-Zhang/CAS-ViT, MODEL_ZOO.md). Of its two files that is the first,
# which is probably of 224 pixels; 78.7 is probably after fine-tuning at 384, on images that are
# warped. The files of 2024-10 had 77.5.
_base_ = '_base_/casvit.py'
model = dict(backbone=dict(arch='xs'), head=dict(in_channels=220))
