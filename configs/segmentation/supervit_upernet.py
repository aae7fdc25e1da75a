# UPerNet, SuperViT on DeiT-S, 160k. No published figure.
# ours: one level from the end of each quarter of the blocks, much as BEiT's UPerNet
_base_ = [
    '_base_/upernet_ade20k.py',
    '_base_/schedules/supervit_160k.py',
    '../_base_/backbones/supervit-deit_s.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
