# UPerNet, SuperViT on DeiT-S, 160k, one set of weights for all operating points by the sandwich
# rule (arXiv 2205.11397, section 3). No published figure.
_base_ = '../supervit_upernet.py'
train_cfg = dict(type='vitbackbones.IterBasedPointsLoop', train_points='sandwich')
