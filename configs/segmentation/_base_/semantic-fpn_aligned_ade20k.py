# Semantic FPN as CAS-ViT tests it: images are resized to multiples of 32 rather than padded.
_base_ = 'semantic-fpn_ade20k.py'
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2048, 512), keep_ratio=True),
            dict(type='ResizeToMultiple', size_divisor=32),
            dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs'),
        ]
    )
)
test_dataloader = val_dataloader
