# GC ViT-B on ImageNet-1K, 224 x 224, tested on whole images: top-1 accuracy 85.0
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05. timm's of 2022-08 have 84.5,
# on 224 of 256 pixels. The text of the README says 85.9: a slip.
# Batches are of 32 x 32 images, at the rate that smaller variants have for 4096.
_base_ = '_base_/gcvit_whole.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=1024)
