# The multi-scale training of DETR and Swin: a random short side, after a random crop half the time.
short_sides = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in range(480, 801, 32)],
    keep_ratio=True,
)
ms_crop = dict(
    type='RandomChoice',
    transforms=[
        [short_sides],
        [
            dict(
                type='RandomChoiceResize',
                scales=[(400, 1333), (500, 1333), (600, 1333)],
                keep_ratio=True,
            ),
            dict(
                type='RandomCrop',
                crop_type='absolute_range',
                crop_size=(384, 600),
                allow_negative_crop=True,
            ),
            short_sides,
        ],
    ],
)
ms_crop_masks = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    ms_crop,
    dict(type='PackDetInputs'),
]
