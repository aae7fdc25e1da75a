# Fine-tuning on images of one's own in folders, data/own/{train,val}/CLASS/*.jpg; the classes are
# the names of the folders, sorted. SHViT-S1 from its published weights. No published figure.
# ours, all of it: a lower rate for 30 epochs, plain labels, weak augmentation.
# Another network: a copy of this file whose first line names its config. SepViT's weights were
# never published: name a file as the checkpoint, or None and a higher rate. SuperViT counts classes
# in its backbone (model.backbone.num_classes), the others in their heads (model.head.num_classes).
_base_ = 'shvit-s1_in1k.py'
classes = dict(num_classes=2)  # how many folders there are
in_head = 'num_classes' not in _base_.model.backbone
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='published'),
        **({} if in_head else classes),
    ),
    head=dict(
        loss=dict(_delete_=True, type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        **(classes if in_head else {}),
    ),
    data_preprocessor=dict(num_classes=None),
    train_cfg=None,
)
train_dataloader = dict(
    batch_size=32,
    batch_sampler=None,  # of one size
    drop_last=False,  # sets may be small
    num_workers=2,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='mmpretrain.CustomDataset',
        data_root='data/own',
        data_prefix='train',
        pipeline=[*_base_.train_pipeline[:3], _base_.train_pipeline[-1]],
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='mmpretrain.CustomDataset',
        data_root='data/own',
        data_prefix='val',
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=30)
# Averages over many thousand iterations would still be the start when these are over.
custom_hooks = [hook for hook in _base_.custom_hooks if hook.type != 'mmpretrain.EMAHook']
optim_wrapper = dict(accumulative_counts=1, optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=2,
        end=30,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=32)
