# UPerNet, CAS-ViT-T, 80k. No published figure.
# ours: Swin's 160k of 16 crops, halved at twice the batch and rate as CAS-ViT does for Semantic FPN
_base_ = [
    '_base_/upernet_ade20k.py',
    '_base_/schedules/casvit_80k.py',
    '../_base_/backbones/casvit-t.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
train_dataloader = dict(batch_size=_base_.batch_size)
