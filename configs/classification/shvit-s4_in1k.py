# SHViT-S4 on ImageNet-1K, 256 x 256, tested on 256 of 292 pixels: top-1 accuracy 79.4
# (https://github.com/ysj9909/SHViT, README), of the plain weights of the published run.
_base_ = '_base_/shvit.py'
model = dict(backbone=dict(arch='s4'), head=dict(in_channels=448))
optim_wrapper = dict(optimizer=dict(weight_decay=0.03))

train_pipeline = [
    _base_.train_pipeline[0],
    dict(_base_.train_pipeline[1], scale=256),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=292),
    dict(_base_.test_pipeline[2], crop_size=256),
    _base_.test_pipeline[3],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
