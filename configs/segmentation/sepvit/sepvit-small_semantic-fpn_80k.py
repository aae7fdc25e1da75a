# Semantic FPN, SepViT-S, 80k, after https://github.com/liwei109/SepViT,
# fpn_sepvit_s_512x512_80k_ade20k. No published figure.
_base_ = [
    '../_base_/semantic-fpn_ade20k.py',
    '../_base_/schedules/adamw_80k.py',
    '../../_base_/backbones/sepvit-small.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
