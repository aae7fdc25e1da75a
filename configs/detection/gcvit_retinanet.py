# RetinaNet, GC ViT-T, 3x on many scales. No published figure.
# ours: the schedule and rates of GC ViT's Cascade Mask R-CNN, in single precision as there
_base_ = [
    '_base_/retinanet_ms-crop_coco.py',
    '_base_/schedules/gcvit_3x.py',
    '../_base_/backbones/gcvit-tiny.py',
]
model = dict(
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]),
)
