# Mask R-CNN, SepViT-S, 3x on many scales, after https://github.com/liwei109/SepViT,
# mask_rcnn_sepvit_s_fpn_3x_coco_swin_setting. Box AP 49.4 and mask AP 44.6 are published
# without naming the backbone (arXiv 2203.15380v4); this is the largest Mask R-CNN.
_base_ = [
    '../_base_/mask-rcnn_ms-crop_coco.py',
    '../_base_/schedules/adamw_3x.py',
    '../../_base_/backbones/sepvit-small.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale=512.0,
    optimizer=dict(lr=1e-4, weight_decay=0.1),
)
