# Cascade Mask R-CNN, SHViT-S4, 1x. No published figure.
# ours: neck and rates of SHViT's Mask R-CNN, the nearest that was published
_base_ = [
    '_base_/cascade-mask-rcnn_coco.py',
    '_base_/schedules/adamw_1x.py',
    '../_base_/backbones/shvit-s4.py',
    '../_base_/necks/transposed-conv-fpn.py',
]
model = dict(
    backbone=_base_.backbone,
    neck=dict(_delete_=True, **_base_.neck, in_channels=_base_.channels, num_trans_convs=2),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
