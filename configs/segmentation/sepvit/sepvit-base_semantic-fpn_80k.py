# Semantic FPN, SepViT-B, 80k, after https://github.com/liwei109/SepViT,
# fpn_sepvit_b_512x512_80k_ade20k. No published figure.
_base_ = [
    '../_base_/semantic-fpn_ade20k.py',
    '../_base_/schedules/adamw_80k.py',
    '../../_base_/backbones/sepvit-base.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
