# Mask R-CNN, SepViT-S, 1x, after https://github.com/liwei109/SepViT,
# mask_rcnn_sepvit_s_fpn_1x_coco_pvt_setting. No published figure.
_base_ = [
    '../_base_/mask-rcnn_coco.py',
    '../_base_/schedules/adamw_1x.py',
    '../../_base_/backbones/sepvit-small.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
