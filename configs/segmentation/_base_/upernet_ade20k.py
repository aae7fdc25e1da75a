# UPerNet on ADE20K, crops of 512 x 512: mmseg's model, data and runtime. Figures are published for
# whole images; `--cfg-options model.test_cfg.mode=slide` tests with a sliding window instead.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/hooks.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained=None,
    backbone=dict(_delete_=True),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode='whole', crop_size=(512, 512), stride=(341, 341)),
)
train_dataloader = dict(batch_size=2)
