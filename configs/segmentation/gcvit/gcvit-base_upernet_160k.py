# UPerNet, GC ViT-B, 160k: mean IoU 49.2, single scale (arXiv 2206.09959v5).
# ours: Swin's schedule and rates; GC ViT's authors published crop size and head only
_base_ = [
    '../_base_/upernet_ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../../_base_/backbones/gcvit-base.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
# The published keys, of a backbone without layer scales, name none: they do decay.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gamma=dict(decay_mult=1.0))))
