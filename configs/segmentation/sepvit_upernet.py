# UPerNet, SepViT-T, 160k, after https://github.com/liwei109/SepViT,
# upernet_sepvit_t_512x512_160k_ade20k_swin_setting. No published figure for
# this backbone: the abstract's mean IoU of 51.0 (arXiv 2203.15380v4) names none.
_base_ = [
    '_base_/upernet_ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '../_base_/backbones/sepvit-tiny.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
