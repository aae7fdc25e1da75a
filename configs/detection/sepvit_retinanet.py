# RetinaNet, SepViT-T, 1x, after https://github.com/liwei109/SepViT,
# retinanet_sepvit_t_fpn_1x_coco_pvt_setting. No published figure for this backbone: the abstract's
# box AP of 47.9 (arXiv 2203.15380v4) names none.
_base_ = [
    '_base_/retinanet_coco.py',
    '_base_/schedules/adamw_1x.py',
    '../_base_/backbones/sepvit-tiny.py',
]
model = dict(
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-3))
