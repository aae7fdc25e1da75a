# SepViT: 8 x 128 images, mixed precision, gradients clipped at a norm of 5. The published code says
# so; its comments (decay 0.1, warm-up of 20 epochs) and secondary sources (clipping at 1) do not.
# No weights were ever published: there is nothing to evaluate but what is trained here.
_base_ = ['imagenet.py', 'schedule.py']
model = dict(
    backbone=dict(type='vitbackbones.SepViT', trunk='classifier', out_indices=(3,)),
    head=dict(type='mmpretrain.LinearClsHead'),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(type='AmpOptimWrapper', clip_grad=dict(max_norm=5.0))
