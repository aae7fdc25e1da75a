"""Pipelines: ours for one's own data, and the sizes in anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbackbones.data.configs import as_list
from vitbackbones.data.nodes import type_name

from .draft import Draft
from .scale import DIVISOR, Scale
from .writing import plain

#: Fewer than so many images are few.
FEW_IMAGES = 5000

#: Below so many images colours vary as well: a network that has seen many images needs it less.
VARY_BELOW = {True: FEW_IMAGES // 4, False: FEW_IMAGES}

#: What is seen less often is not learnt by heart: colours stay, which are easier to learn from.
SEEN_OFTEN = 30

#: A crop of a label map is no larger than that of ADE20K's recipes.
CROP = 512

#: Least and largest size in training, in parts of the chosen one. Crops keep label maps small.
BOXES_RANGE = (0.75, 1.25)
BOUNDED_RANGE = (0.9, 1.0)  # of objects: around the size that they are tested with
LABELS_RANGE = (0.75, 1.5)

# What holds sizes in pixels, in steps of pipelines and in batch augmentations.
_SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'border', 'random_size_range')
_FRAMES = ('img_scale', 'crop_size', 'size', 'random_size_range')  # what images are put into
_DIVISORS = {'scale': 1, 'scales': 1}  # which are padded afterwards
_LEAST = 48  # what is smaller is no image's side

#: What a network starts from, by whether it is pre-trained.
WEIGHTS = {True: 'given', False: 'random'}

Step = dict[str, Any]

#: Why steps are as they are, for the reader of the file.
REASONS = {
    'RandomResize': 'Sizes vary from {least} to {most} times that of tests.',
    'RandomCrop': 'Of ten crops the first in which no class fills more than three quarters.',
    'YOLOXHSVRandomAug': 'Colours vary, for {images} images and {weights} weights are few.',
    'PhotoMetricDistortion': 'Colours vary, for {images} images and {weights} weights are few.',
    'RandomFlip': 'Left and right alone: most scenes have an up.',
}


def colours_vary(images: int, seen: int, *, pretrained: bool) -> bool:
    """Whether they do in training on so many images, each of which is seen so often."""
    return images < VARY_BELOW[pretrained] and seen >= SEEN_OFTEN


def detection(scale: Scale, *, masks: bool, colours: bool) -> tuple[list[Step], list[Step]]:
    """Steps of training and test for objects.

    Args:
        colours: whether they vary, see :func:`colours_vary`.
    """
    load: Step = dict(type='LoadAnnotations', with_bbox=True)
    if masks:
        load['with_mask'] = True
    # Colours tell what is what: they vary, but channels are not swapped, as other steps do.
    vary: Step = dict(type='YOLOXHSVRandomAug')
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return _around(
        [load, _resize(scale, BOXES_RANGE)],
        [dict(type='Resize', scale=scale.size, keep_ratio=True), load],
        vary if colours else None,
        'PackDetInputs',
        meta_keys=meta,
    )


def segmentation(scale: Scale, *, colours: bool) -> tuple[list[Step], list[Step], tuple[int, int]]:
    """As :func:`detection` for label maps, and the size of a crop, (height, width)."""
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
        dict(type='PhotoMetricDistortion') if colours else None,
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
    if scale.bounded and not cropped:
        parts = BOUNDED_RANGE  # what bounds the size is the memory, most often
    return dict(type='RandomResize', scale=scale.size, ratio_range=parts, keep_ratio=True)


def explain(draft: Draft, place: str, steps: list[Step], images: int, *, pretrained: bool) -> None:
    """Let comments stand above the steps of ours at a place of a config."""
    weights = WEIGHTS[pretrained]
    for i, step in enumerate(steps):
        least, most = step.get('ratio_range', (1, 1))
        why = REASONS.get(step['type'], '')
        why = why.format(least=least, most=most, images=images, weights=weights)
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


def largest_frame(node: Any) -> int:
    """The longest side of what a pipeline, or a part of a model, puts images into; 0 if nothing."""
    if isinstance(node, Mapping):
        own = [side for key in _FRAMES for side in as_list(node.get(key)) if isinstance(side, int)]
        return max([*own, *map(largest_frame, node.values())], default=0)
    if isinstance(node, (list, tuple)):
        return max(map(largest_frame, node), default=0)
    return 0


def rescale(
    node: Any, factor: float, largest: tuple[int, int] | None = None, *, padded: bool = False
) -> Any:
    """A pipeline, or a part of a model, with all sizes multiplied; they stay divisible.

    Args:
        largest: long and short side that no image may exceed, nor a side of crops the long one.
        padded: whether a step pads images to a size, which what they are resized to must not
            exceed: then that is divisible, too.
    """
    down = largest is not None
    if isinstance(node, Mapping):
        # A crop of a free size is resized afterwards.
        free = {'crop_size': 1} if str(node.get('crop_type')).startswith('absolute_range') else {}
        divisors = {**({} if padded else _DIVISORS), **free}
        new = {
            key: _times(value, factor, divisors.get(key, DIVISOR), down=down)
            if key in _SIZES
            else rescale(value, factor, largest, padded=padded)
            for key, value in node.items()
        }
        if (
            'crop_size' in node and 'stride' in node
        ):  # of a window that slides: what overlaps does so
            pairs = zip(new['crop_size'], node['crop_size'], node['stride'], strict=True)
            new['stride'] = type(node['stride'])(max(1, s * n // o) for n, o, s in pairs)
        return new
    if isinstance(node, (list, tuple)):
        steps = [step for step in node if isinstance(step, Mapping)]
        padded |= any(type_name(step) == 'Pad' and step.get('size') for step in steps)
        parts = [rescale(value, factor, largest, padded=padded) for value in node]
        return type(node)(_none_larger(parts, largest) if largest else parts)
    return node


def _none_larger(steps: list[Any], largest: tuple[int, int]) -> list[Any]:
    """Steps that resize no image to more than that; what is cropped afterwards, on average.

    Of several images in one, which are cropped as well, nothing changes.
    """
    kinds = [type_name(step) if isinstance(step, dict) else '' for step in steps]
    cropped = max((i for i, kind in enumerate(kinds) if 'Crop' in kind), default=-1)
    mixed = any('Mosaic' in kind for kind in kinds)
    for i, kind in enumerate(kinds):
        if not kind.endswith('Resize') or (i < cropped and mixed):
            continue
        steps[i] = step = dict(steps[i])
        for key in ('scale', 'scales'):
            if step.get(key):
                step[key] = _within(step[key], largest)
        most = step.get('ratio_range')
        if most and max(most) > 1 and i > cropped:
            step['ratio_range'] = (min(*most, 1.0), 1.0)
    return steps


def _within(scale: Any, largest: tuple[int, int]) -> Any:
    """A scale of two sides, or several, none of which is larger."""
    if not isinstance(scale, (list, tuple)):
        return scale
    if len(scale) != 2 or not all(isinstance(side, int) for side in scale):
        return type(scale)(_within(each, largest) for each in scale)
    sides = (max(largest), min(largest)) if scale[0] >= scale[1] else sorted(largest)
    within: list[int] | tuple[int, ...] = [
        min(s, most) for s, most in zip(scale, sides, strict=True)
    ]
    return within if isinstance(scale, list) else tuple(within)


def _times(value: Any, factor: float, divisor: int, *, down: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_times(each, factor, divisor, down=down) for each in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) < _LEAST:
        return value  # a part, or no side at all
    if value < 0:
        divisor //= 2  # half a side: the border of a mosaic
    parts = abs(value) * factor / divisor
    size = divisor * max(1, int(parts + 1e-6) if down else round(parts))
    return -size if value < 0 else size
