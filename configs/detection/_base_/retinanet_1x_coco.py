# RetinaNet, COCO, 12 epochs, 8 x 2 pictures: mmdet's model, data, schedule and runtime.
# A leaf names the backbone, its channels and the optimizer.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
# Backbones output strides 8, 16 and 32 here: the neck starts with the first map it gets.
model = dict(backbone=dict(_delete_=True), neck=dict(start_level=0))
