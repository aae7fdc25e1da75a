# UPerNet, GC ViT-T, 160k: mean IoU 46.5, single scale (the archive of paperswithcode.com).
# ours: Swin's schedule and rates; GC ViT's authors published crop size and head only
_base_ = [
    '_base_/upernet_ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '../_base_/backbones/gcvit-tiny.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
