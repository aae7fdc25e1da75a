# RetinaNet, SepViT-S, 3x on many scales, after https://github.com/liwei109/SepViT,
# retinanet_sepvit_s_fpn_3x_ms_coco. Box AP 47.9 is published without naming the backbone
# (arXiv 2203.15380v4); this is the largest RetinaNet.
_base_ = [
    '../_base_/retinanet_ms-crop_coco.py',
    '../_base_/schedules/adamw_3x.py',
    '../../_base_/backbones/sepvit-small.py',
]
model = dict(
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.1))
