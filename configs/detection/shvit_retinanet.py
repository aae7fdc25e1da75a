# RetinaNet, SHViT-S4, 1x: box AP 38.8 (https://github.com/ysj9909/SHViT, downstream/README).
# The neck makes stride 8 out of stride 16; published so: BatchNorm decays like everything else.
_base_ = [
    '_base_/retinanet_coco.py',
    '_base_/schedules/adamw_1x.py',
    '../_base_/backbones/shvit-s4.py',
    '../_base_/necks/transposed-conv-fpn.py',
]
model = dict(
    backbone=_base_.backbone,
    neck=dict(_delete_=True, **_base_.neck, in_channels=_base_.channels, num_trans_convs=1),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
