# Semantic FPN, CAS-ViT-T, 40k: mean IoU 45.0 (https://github.com/Tianfang-Zhang/CAS-ViT,
# MODEL_ZOO).
_base_ = [
    '../_base_/semantic-fpn_aligned_ade20k.py',
    '../_base_/schedules/casvit_40k.py',
    '../../_base_/backbones/casvit-t.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
train_dataloader = dict(batch_size=_base_.batch_size)
