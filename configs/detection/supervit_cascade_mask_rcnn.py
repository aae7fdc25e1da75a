# Cascade Mask R-CNN, SuperViT on DeiT-S, 3x on many scales. No published figure.
_base_ = [
    '_base_/cascade-mask-rcnn_ms-crop_coco.py',
    '_base_/schedules/supervit_3x.py',
    '../_base_/backbones/supervit-deit_s.py',
]
model = dict(
    # ours: all levels from the last block, as in ViTDet
    backbone=dict(**_base_.backbone, taps=(11,)),
    neck=dict(in_channels=_base_.channels),
)
