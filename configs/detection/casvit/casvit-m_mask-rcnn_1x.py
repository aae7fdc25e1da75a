# Mask R-CNN, CAS-ViT-M, 1x: box AP 42.3, mask AP 38.9
# (https://github.com/Tianfang-Zhang/CAS-ViT, MODEL_ZOO).
_base_ = [
    '../_base_/mask-rcnn_coco.py',
    '../_base_/schedules/casvit_1x.py',
    '../../_base_/backbones/casvit-m.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
train_dataloader = dict(batch_size=_base_.batch_size)
