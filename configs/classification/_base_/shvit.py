# SHViT: 8 x 256 images, each of them three times (repeated augmentation), in single precision, and
# adaptive clipping of gradients at 0.02, of all parameters.
# ours: 1e-3 at 2048 images, as the paper says. The published code scales it to 4e-3, with which two
# users could not reproduce the figures (ysj9909/SHViT#3); the author found no fault in the code.
# The published averages of the weights (EMA 0.99996) were neither evaluated nor released: left out.
_base_ = ['imagenet.py', 'schedule.py']
model = dict(
    backbone=dict(type='vitbackbones.SHViT', drop_path_rate=0.0, out_indices=(2,)),
    head=dict(type='mmpretrain.LeViTClsHead', distillation=False),
)
train_dataloader = dict(batch_size=256, sampler=dict(type='mmpretrain.RepeatAugSampler'))
auto_scale_lr = dict(base_batch_size=2048)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='vitbackbones.AdaptiveClipHook', clipping=0.02),
]
