# UPerNet, SHViT-S4, 160k. No published figure.
# ours: Swin's schedule and rates, and the neck of SHViT's Mask R-CNN, all five levels of it
_base_ = [
    '_base_/upernet_ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '../_base_/backbones/shvit-s4.py',
    '../_base_/necks/transposed-conv-fpn.py',
]
model = dict(
    backbone=_base_.backbone,
    neck=dict(**_base_.neck, in_channels=_base_.channels, num_trans_convs=2),
    decode_head=dict(in_channels=[256] * 5, in_index=[0, 1, 2, 3, 4]),
    auxiliary_head=dict(in_channels=256),
)
# As SHViT was published: everything decays.
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True)
)
