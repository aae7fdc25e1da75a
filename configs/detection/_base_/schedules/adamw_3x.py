# 36 epochs of 8 x 2 images, AdamW, as Swin's. Norms, and what the backbone's no_weight_decay()
# names, do not decay: SepViT's position encodings, GC ViT's position tables.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='vitbackbones.NoWeightDecayOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
)
