# ours: Swin's UPerNet schedule as CAS-ViT scales its Semantic FPN: half the iterations, with twice
# the batch (8 x 4 crops) and twice the rate.
_base_ = 'mmseg::_base_/schedules/schedule_80k.py'
batch_size = 4  # per GPU; a leaf hands it to its data loader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1.2e-4, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=80000),
]
auto_scale_lr = dict(enable=False, base_batch_size=8 * batch_size)
