# GC ViT tested on whole images: the shorter side becomes 224 pixels, of which the middle is taken.
_base_ = 'gcvit.py'
test_pipeline = [
    _base_.test_pipeline[0],
    dict(_base_.test_pipeline[1], scale=224),
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
