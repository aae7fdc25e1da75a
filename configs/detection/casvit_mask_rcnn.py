# Mask R-CNN, CAS-ViT-T, 1x: box AP 43.5, mask AP 39.6
# (https://github.com/Tianfang-Zhang/CAS-ViT, MODEL_ZOO).
_base_ = [
    '_base_/mask-rcnn_coco.py',
    '_base_/schedules/casvit_1x.py',
    '../_base_/backbones/casvit-t.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
train_dataloader = dict(batch_size=_base_.batch_size)
