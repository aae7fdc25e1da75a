# SuperViT on DeiT-S on ImageNet-1K: top-1 accuracy 80.62 at 224 x 224 with all tokens
# (https://github.com/lmbxmu/SuperViT, README), 79.95 with half of them kept three times; 75.79 and
# 73.75 at 128 x 128. Published and evaluated were the plain weights; their averages (EMA 0.99996)
# are left out. Images come three times (repeated augmentation).
_base_ = '_base_/supervit.py'
model = dict(backbone=dict(arch='deit_s'))
train_dataloader = dict(sampler=dict(type='mmpretrain.RepeatAugSampler'))
