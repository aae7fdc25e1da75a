# Mask R-CNN, GC ViT-T, 3x on many scales: box AP 47.9, mask AP 43.2
# (https://github.com/NVlabs/GCVit, detection/README; mask_rcnn_gcvit_tiny_3x_coco).
_base_ = [
    '_base_/mask-rcnn_ms-crop_coco.py',
    '_base_/schedules/gcvit_3x.py',
    '../_base_/backbones/gcvit-tiny.py',
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(
    type='AmpOptimWrapper',
    # The published key for position tables, 'rpb', is in no parameter's name: they do decay here.
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=1.0))),
)
