# One set of weights for twelve operating points: SuperViT as wide as DeiT-Ti, so that this example
# trains on a CPU, on the images of blood_cells.py.
_base_ = 'blood_cells.py'
dim = 192
channels = 96  # of neck and head; with RetinaNet's 256 they would cost more than this backbone
model = dict(
    backbone=dict(
        _delete_=True,
        type='vitbackbones.SuperViT',
        arch=dict(dim=dim, depth=12, num_heads=3, mlp_ratio=4, qkv_bias=True, norm_eps=1e-6),
        out_indices=(1, 2, 3),
        taps=(11,),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[dim] * 3, out_channels=channels),
    bbox_head=dict(in_channels=channels, feat_channels=channels, stacked_convs=2),
)
train_cfg = dict(
    type='vitbackbones.EpochBasedPointsLoop',
    train_points='sandwich',
    student_loss='task',
    max_epochs=12,
    val_interval=12,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
# Gradients are summed over the four passes of an iteration, and clipped as a sum.
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=0.05), clip_grad=dict(max_norm=4.0))
