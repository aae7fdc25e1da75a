# AdamW for 300 epochs of 1024 images: DeiT's warm-up and cosine. What has one dimension, norms and
# biases, does not decay. The published cosine begins with training, not after the warm-up: its
# rates are up to 3 % lower.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    paramwise_cfg=dict(bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
auto_scale_lr = dict(base_batch_size=1024, enable=False)
