# Cascade Mask R-CNN, GC ViT-B, 3x on many scales: box AP 52.9, mask AP 45.8
# (https://github.com/NVlabs/GCVit, detection/README).
# ours: the rates of the tiny one, the only config that was published
_base_ = [
    '../_base_/cascade-mask-rcnn_4conv1fc-giou_ms-crop_coco.py',
    '../_base_/schedules/gcvit_3x.py',
    '../../_base_/backbones/gcvit-base.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
# The published keys, of a backbone without layer scales, name none: they do decay.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gamma=dict(decay_mult=1.0))))
