# GC ViT-S2 on ImageNet-1K, 224 x 224, tested on 224 of 256 pixels: top-1 accuracy 84.8
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05.
# Batches are of 32 x 32 images, at the rate that smaller variants have for 4096.
_base_ = '_base_/gcvit.py'
model = dict(backbone=dict(arch='small2', drop_path_rate=0.35), head=dict(in_channels=768))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=1024)
