# 40k iterations of 8 x 4 crops, AdamW, as CAS-ViT's Semantic FPN was published
# (https://github.com/Tianfang-Zhang/CAS-ViT, segmentation/configs/RCViT).
_base_ = 'mmseg::_base_/schedules/schedule_40k.py'
batch_size = 4  # per GPU; a leaf hands it to its data loader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=40000),
]
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
