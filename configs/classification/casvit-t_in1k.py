# CAS-ViT-T on ImageNet-1K, 224 x 224: top-1 accuracy 83.9
# (https://github.com/Tianfang-Zhang/CAS-ViT, MODEL_ZOO.md). Of its two files that is the first,
# which is probably of 224 pixels; 84.1 is probably after fine-tuning at 384, on images that are
# warped. The files of 2024-10 had 82.3.
_base_ = '_base_/casvit.py'
model = dict(backbone=dict(arch='t'), head=dict(in_channels=512))
