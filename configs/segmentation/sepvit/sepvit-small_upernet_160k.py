# UPerNet, SepViT-S, 160k, after https://github.com/liwei109/SepViT,
# upernet_sepvit_s_512x512_160k_ade20k_swin_setting. No published figure.
_base_ = [
    '../_base_/upernet_ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../../_base_/backbones/sepvit-small.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
