# Cascade Mask R-CNN, GC ViT-T, 3x on many scales: box AP 51.6, mask AP 44.6
# (https://github.com/NVlabs/GCVit, detection/README; cascade_mask_rcnn_gcvit_tiny_3x_coco).
_base_ = [
    '_base_/cascade-mask-rcnn_4conv1fc-giou_ms-crop_coco.py',
    '_base_/schedules/gcvit_3x.py',
    '../_base_/backbones/gcvit-tiny.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
