# Semantic FPN on ADE20K, crops of 512 x 512: mmseg's model, data and runtime.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/hooks.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150),
)
train_dataloader = dict(batch_size=2)
