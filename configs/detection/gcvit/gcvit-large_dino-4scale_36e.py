# DINO with four scales, GC ViT-L from ImageNet-21K, 36 epochs: box AP 58.3 (arXiv 2206.09959v5).
_base_ = ['../_base_/dino-4scale_36e_coco.py', '../../_base_/backbones/gcvit-large.py']
model = dict(
    # ours: recomputes its blocks, as Swin-L does in mmdet's DINO, to fit two images on a GPU
    backbone=dict(**_base_.backbone, out_indices=(1, 2, 3), with_cp=True),
    neck=dict(in_channels=_base_.channels[1:]),
)
