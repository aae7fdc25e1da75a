# Cascade Mask R-CNN, SepViT-T, 1x. No published figure.
# ours: the rates of SepViT-T's Mask R-CNN, the nearest that was published
_base_ = [
    '_base_/cascade-mask-rcnn_coco.py',
    '_base_/schedules/adamw_1x.py',
    '../_base_/backbones/sepvit-tiny.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-3))
