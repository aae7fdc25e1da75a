# UPerNet with SepViT-T, 160k, as published (https://github.com/liwei109/SepViT,
# upernet_sepvit_t_512x512_160k_ade20k_swin_setting): position encodings and norms do not decay.
_base_ = ['_base_/upernet_160k_ade20k.py', '../_base_/backbones/sepvit-tiny.py']
model = dict(
    backbone=dict(**_base_.backbone),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(pos_block=dict(decay_mult=0.0), norm=dict(decay_mult=0.0))),
)
