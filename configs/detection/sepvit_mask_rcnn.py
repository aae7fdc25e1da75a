# Mask R-CNN, SepViT-T, 1x, after https://github.com/liwei109/SepViT,
# mask_rcnn_sepvit_t_fpn_1x_coco_pvt_setting. No published figure for this backbone: the abstract's
# box AP of 49.4 and mask AP of 44.6 (arXiv 2203.15380v4) name none.
_base_ = [
    '_base_/mask-rcnn_coco.py',
    '_base_/schedules/adamw_1x.py',
    '../_base_/backbones/sepvit-tiny.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-3))
