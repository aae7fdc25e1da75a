# RetinaNet, SuperViT on DeiT-S, 3x on many scales, one set of weights for all operating points by
# the sandwich rule (arXiv 2205.11397, section 3). No published figure.
_base_ = '../supervit_retinanet.py'
train_cfg = dict(
    type='vitbackbones.EpochBasedPointsLoop',
    train_points='sandwich',
    small_weight=0.5,  # ours: docs/operating_points.md compares it with the published 1
)
