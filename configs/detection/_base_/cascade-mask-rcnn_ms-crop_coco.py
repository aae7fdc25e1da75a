# Cascade Mask R-CNN on COCO boxes and masks, trained on many scales.
_base_ = ['cascade-mask-rcnn_coco.py', 'ms-crop.py']
train_dataloader = dict(dataset=dict(pipeline=_base_.ms_crop_masks))
