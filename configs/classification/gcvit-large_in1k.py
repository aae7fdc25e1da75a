# GC ViT-L on ImageNet-1K, 224 x 224, tested on whole images: top-1 accuracy 85.7
# (https://github.com/NVlabs/GCVit, README), of the files of 2023-05. Those from ImageNet-21K, with
# 86.6 at 224, came about in a way that was not published. Batches are of 32 x 32 images, at the
# rate that smaller variants have for 4096.
_base_ = '_base_/gcvit_whole.py'
model = dict(backbone=dict(arch='large', drop_path_rate=0.5), head=dict(in_channels=1536))
train_dataloader = dict(batch_size=32)
auto_scale_lr = dict(base_batch_size=1024)
