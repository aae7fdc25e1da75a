# Cascade Mask R-CNN on COCO boxes and masks, trained on many scales.
_base_ = ['cascade-mask-rcnn_coco.py', 'ms-crop.py']
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='RandomFlip', prob=0.5),
            _base_.ms_crop,
            dict(type='PackDetInputs'),
        ]
    )
)
