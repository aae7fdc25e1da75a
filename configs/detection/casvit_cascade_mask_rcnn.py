# Cascade Mask R-CNN, CAS-ViT-T, 1x. No published figure.
# ours: the rates of CAS-ViT's Mask R-CNN, the nearest that was published
_base_ = [
    '_base_/cascade-mask-rcnn_coco.py',
    '_base_/schedules/casvit_1x.py',
    '../_base_/backbones/casvit-t.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
train_dataloader = dict(batch_size=_base_.batch_size)
