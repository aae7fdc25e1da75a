# Mask R-CNN on COCO boxes and masks: mmdet's model, data and runtime.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/hooks.py',
]
model = dict(backbone=dict(_delete_=True))
