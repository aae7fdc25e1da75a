# An image classifier on ImageNet-1K at 224 x 224: mmpretrain's model, data and runtime, in the
# terms of DeiT (arXiv 2012.12877), which all five networks were trained in: random resized crops
# (bicubic), RandAugment rand-m9-mstd0.5-inc1, random erasing 0.25 in normal noise, mixup 0.8 or
# cutmix 1.0 in every batch, labels smoothed by 0.1; tested on 224 of 256 pixels. Pixels erased are
# noise cut to 0..255, for mmpretrain erases before it normalises; else it computes the same.
# RandAugment's Posterize may keep 0 bits, as published: a black image here, no error as in timm.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/hooks.py',
]
model = dict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', **_base_.data_preprocessor),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        num_classes=1000,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(
        augments=[
            dict(type='mmpretrain.Mixup', alpha=0.8),
            dict(type='mmpretrain.CutMix', alpha=1.0),
        ]
    ),
)
train_dataloader = dict(drop_last=True)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))  # of 300 epochs
# The training pipeline of those that crop and augment an image by either bilinear or bicubic
# interpolation. The published code chooses anew for each operation.
random_interpolation = [
    _base_.train_pipeline[0],
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(_base_.train_pipeline[1], interpolation=way),
                _base_.train_pipeline[2],
                dict(
                    _base_.train_pipeline[3],
                    hparams=dict(_base_.train_pipeline[3].hparams, interpolation=way),
                ),
            ]
            for way in ('bilinear', 'bicubic')
        ],
    ),
    *_base_.train_pipeline[4:],
]
