# UPerNet, SepViT-B, 160k, after https://github.com/liwei109/SepViT,
# upernet_sepvit_b_512x512_160k_ade20k_swin_setting. Mean IoU 51.0 is published
# without naming backbone or head (arXiv 2203.15380v4); this is the largest.
_base_ = [
    '../_base_/upernet_ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../../_base_/backbones/sepvit-base.py',
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(optimizer=dict(lr=6e-5, weight_decay=0.03))
