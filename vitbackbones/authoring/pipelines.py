"""Pipelines: ours for one's own data, and the sizes in anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .draft import Draft
from .scale import DIVISOR, Scale
from .writing import plain

#: Up to so many images, colours vary as well.
FEW_IMAGES = 5000

#: A crop of a label map is no larger than that of ADE20K's recipes.
CROP = 512

#: Least and largest size in training, in parts of the chosen one. Crops keep label maps small.
BOXES_RANGE = (0.75, 1.25)
LABELS_RANGE = (0.75, 1.5)

# What holds sizes in pixels, in steps of pipelines and in batch augmentations.
_SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'border', 'random_size_range')
_LEAST = 48  # what is smaller is no image's side

Step = dict[str, Any]

#: Why steps are as they are, for the reader of the file.
REASONS = {
    'RandomResize': 'Sizes vary from {least} to {most} times that of tests.',
    'RandomCrop': 'No class fills more than three quarters of a crop.',
    'YOLOXHSVRandomAug': 'Colours vary, since there are few images: {images}.',
    'PhotoMetricDistortion': 'Colours vary, since there are few images: {images}.',
    'RandomFlip': 'Left and right alone: most scenes have an up.',
}


def detection(scale: Scale, *, masks: bool, images: int) -> tuple[list[Step], list[Step]]:
    """Steps of training and test for objects.

    Args:
        images: that are trained on.
    """
    load: Step = dict(type='LoadAnnotations', with_bbox=True)
    if masks:
        load['with_mask'] = True
    # Colours tell what is what: they vary, but channels are not swapped, as other steps do.
    colours: Step = dict(type='YOLOXHSVRandomAug')
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return _around(
        [load, _resize(scale, BOXES_RANGE)],
        [dict(type='Resize', scale=scale.size, keep_ratio=True), load],
        colours if images < FEW_IMAGES else None,
        'PackDetInputs',
        meta_keys=meta,
    )


def segmentation(scale: Scale, *, images: int) -> tuple[list[Step], list[Step], tuple[int, int]]:
    """Steps of training and test for label maps, and the size of a crop, (height, width)."""
    side = min(CROP, *scale.size)
    crop = (max(DIVISOR, side // DIVISOR * DIVISOR),) * 2
    load: Step = dict(type='LoadAnnotations', reduce_zero_label=False)
    train, test = _around(
        [
            load,
            _resize(scale, LABELS_RANGE, cropped=True),
            dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75),
        ],
        [dict(type='Resize', scale=scale.size, keep_ratio=True), load],
        dict(type='PhotoMetricDistortion') if images < FEW_IMAGES else None,
        'PackSegInputs',
    )
    return train, test, crop


def _around(
    train: list[Step], test: list[Step], colours: Step | None, pack: str, **packed: Any
) -> tuple[list[Step], list[Step]]:
    load: Step = dict(type='LoadImageFromFile')
    # The last, since colours cannot vary in a view of an image from its other end.
    flip: Step = dict(type='RandomFlip', prob=0.5)
    return (
        [load, *train, *([colours] if colours else []), flip, dict(type=pack)],
        [load, *test, dict(type=pack, **packed)],
    )


def _resize(scale: Scale, parts: tuple[float, float], cropped: bool = False) -> Step:
    least, most = parts
    if scale.bounded and not cropped:
        most = 1.0  # what bounds the size is the memory, most often
    return dict(type='RandomResize', scale=scale.size, ratio_range=(least, most), keep_ratio=True)


def explain(draft: Draft, place: str, steps: list[Step], images: int) -> None:
    """Let comments stand above the steps of ours at a place of a config."""
    for i, step in enumerate(steps):
        least, most = step.get('ratio_range', (1, 1))
        why = REASONS.get(step['type'], '').format(least=least, most=most, images=images)
        draft.explain(f'{place}.{i}', why)


# ------------------------------------------------------------------------- sizes in any pipeline


def has_one_size(draft: Draft) -> str:
    """Why the images of a method cannot be of another size; '' if they can."""
    generator = draft.get('model.bbox_head.anchor_generator') or {}
    if generator.get('input_size'):
        return 'its anchors are made for one size of image'
    if any(isinstance(stride, float) for stride in generator.get('strides') or ()):
        return 'the strides of its anchors are parts of one size of image'
    if "'RandomCenterCropPad'" in repr(plain(draft.get('train_dataloader') or {})):
        return 'its crops are padded to one size'
    return ''


def test_scale(steps: list[Step]) -> tuple[int, int] | None:
    """Long and short side of what images are resized to before they are tested."""
    for step in steps:
        scale = step.get('scale')
        if isinstance(scale, (list, tuple)) and len(scale) == 2:
            return max(scale), min(scale)
    return None


def rescale(node: Any, factor: float) -> Any:
    """A pipeline, or a part of a model, with all sizes multiplied; they stay divisible."""
    if isinstance(node, Mapping):
        return {
            key: _times(value, factor) if key in _SIZES else rescale(value, factor)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(rescale(value, factor) for value in node)
    return node


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_times(each, factor) for each in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) < _LEAST:
        return value  # a part, or no side at all
    divisor = DIVISOR // 2 if value < 0 else DIVISOR  # half a side: the border of a mosaic
    size = max(divisor, divisor * round(abs(value) * factor / divisor))
    return -size if value < 0 else size
