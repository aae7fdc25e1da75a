# 12 epochs of 8 x 4 images, AdamW, as CAS-ViT was published
# (https://github.com/Tianfang-Zhang/CAS-ViT, detection/configs/RCViT).
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
batch_size = 4  # per GPU; a leaf hands it to its data loader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=8 * batch_size)
