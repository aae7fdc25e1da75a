# RetinaNet on COCO boxes: mmdet's model, data and runtime. Its pyramid starts at stride 8, so a
# backbone outputs strides 8, 16 and 32 here and the neck takes the first map it gets.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/hooks.py',
]
model = dict(backbone=dict(_delete_=True), neck=dict(start_level=0))
