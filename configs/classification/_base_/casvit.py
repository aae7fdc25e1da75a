# CAS-ViT: 8 x 128 images, accumulated twice, in batches of six sizes, mixed precision, warm-up of
# 20 epochs from zero and a cosine by iterations, without mixup, cutmix and erasing. Averaged
# weights (EMA 0.9995) are evaluated beside the plain ones. The published command makes 6e-3 meet
# 2048 images; the help text of its option speaks of 4096. Published files may have a second head,
# whose logits are averaged with the first one's: `--cfg-options model.head.distillation=True` tests
# them; training has one.
_base_ = ['imagenet.py', 'schedule.py']
sizes = [160, 192, 224, 256, 288, 320]
model = dict(
    backbone=dict(type='vitbackbones.CASViT', drop_path_rate=0.1, out_indices=(3,)),
    head=dict(type='mmpretrain.EfficientFormerClsHead', distillation=False),
    train_cfg=None,
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='vitbackbones.ToBatchSize', sizes=sizes, transform=_base_.train_pipeline[1]),
    *(step for step in _base_.train_pipeline[2:] if step.type != 'RandomErasing'),
]
train_dataloader = dict(
    batch_size=128,
    batch_sampler=dict(type='vitbackbones.MultiScaleBatchSampler', sizes=sizes),
    drop_last=False,  # the batch sampler has none that is smaller
    dataset=dict(pipeline=train_pipeline),
)
optim_wrapper = dict(type='AmpOptimWrapper', accumulative_counts=2, optimizer=dict(lr=6e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=1024)  # mmengine does not count what is accumulated
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmpretrain.EMAHook',
        momentum=5e-4,
        interval=2,  # as the optimiser steps
        update_buffers=True,
        evaluate_on_origin=True,
    ),
]
