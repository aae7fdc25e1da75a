# RetinaNet, CAS-ViT-T, 1x: box AP 41.9 (https://github.com/Tianfang-Zhang/CAS-ViT, MODEL_ZOO).
_base_ = [
    '_base_/retinanet_coco.py',
    '_base_/schedules/casvit_1x.py',
    '../_base_/backbones/casvit-t.py',
]
model = dict(
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3)),
    neck=dict(in_channels=_base_.channels[1:]),
)
train_dataloader = dict(batch_size=_base_.batch_size)
