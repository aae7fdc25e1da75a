# 12 epochs of 8 x 2 images, AdamW. A leaf names the rates its backbone was published with.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))
