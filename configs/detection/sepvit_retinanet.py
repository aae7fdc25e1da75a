# RetinaNet with SepViT-T, 1x, as published (https://github.com/liwei109/SepViT,
# retinanet_sepvit_t_fpn_1x_coco_pvt_setting): AdamW 1e-4, weight decay 1e-3, 8 x 2 pictures.
_base_ = ['_base_/retinanet_1x_coco.py', '../_base_/backbones/sepvit-tiny.py']
model = dict(
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-3),
)
