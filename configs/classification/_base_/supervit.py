# SuperViT: one set of weights for four sizes and three shares of tokens. In every iteration four
# passes: all tokens of 224 pixels and of a smaller size learn from the labels, and fewer of them
# from the class probabilities of a pass with all. Gradients are added. The network resizes images;
# `--cfg-options model.backbone.operating_point.keep_rate=0.5` tests another point, as does its
# `scale`: 8/14, 10/14 or 12/14. Position tables decay, the class token does not.
_base_ = ['imagenet.py', 'schedule.py']
model = dict(
    backbone=dict(
        type='vitbackbones.SuperViTClassifier',
        num_classes=1000,
        drop_path_rate=0.1,
        operating_point=dict(scale=1.0, keep_rate=1.0),
    ),
    neck=None,
    head=dict(_delete_=True, type='mmpretrain.ClsHead', loss=_base_.model.head.loss),
)
train_cfg = dict(
    type='vitbackbones.EpochBasedPointsLoop',
    train_points='sandwich',
    student_loss='logits',
)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0))),
)
