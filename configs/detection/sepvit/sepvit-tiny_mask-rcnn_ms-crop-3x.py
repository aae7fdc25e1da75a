# Mask R-CNN, SepViT-T, 3x on many scales, after https://github.com/liwei109/SepViT,
# mask_rcnn_sepvit_t_fpn_3x_coco_swin_setting. No published figure.
_base_ = [
    '../_base_/mask-rcnn_ms-crop_coco.py',
    '../_base_/schedules/adamw_3x.py',
    '../../_base_/backbones/sepvit-tiny.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale=512.0,
    optimizer=dict(lr=1e-4, weight_decay=0.05),
)
