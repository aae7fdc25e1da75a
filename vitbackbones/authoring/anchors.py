"""Anchors of a size that objects have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitbackbones.data.nodes import type_name
from vitbackbones.engine.anchors import best_overlap

from .classes import parts
from .draft import Draft
from .writing import plain

#: An object is matched by an anchor that overlaps it by half: every head learns from that.
OVERLAP = 0.5

#: Up to this share of objects that match none, anchors stay as they are.
SHARE = 0.03

#: What sizes are multiplied with, the nearest first.
FACTORS = (1.0, 0.75, 1.5, 0.5, 2.0, 0.375, 3.0, 0.25, 4.0, 0.125)

#: Objects that are looked at.
OBJECTS = 5000


def fit_anchors(draft: Draft, objects: NDArray[Any], sizes: NDArray[Any]) -> None:
    """Choose the size, and if need be the ratios, of all anchors by the objects of the training.

    Args:
        objects: (M, 2) width and height in resized images.
        sizes: (M, 2) width and height of these images.
    """
    if not len(objects):
        return
    boxes, images = _placed(objects, sizes)
    for place, generator in list(generators(draft.config.model)):
        before = unmatched(generator, boxes, images)
        chosen, after = _best(generator, boxes, images)
        what = f'{before:.0%} of the objects match no anchor by half'
        if chosen != generator:
            for key in chosen:
                if chosen[key] != generator[key]:
                    draft.set(
                        f'{place}.{key}', chosen[key], f'As they were, {what}; so, {after:.0%}.'
                    )
            draft.said.append(f'anchors: {what} of {place}; changed, {after:.0%}')
        if after > SHARE:
            side = np.sqrt(objects.prod(1))
            draft.said.append(
                f'anchors: warning, {after:.0%} of the objects match none of {place} by half; '
                f'their sides are {np.quantile(side, 0.05):.0f} to {np.quantile(side, 0.95):.0f} '
                'pixels in resized images'
            )


def generators(model: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The anchor generators whose size is free, with their places."""
    for part, place in parts(model, 'model'):
        if type_name(part) in ('AnchorGenerator', 'YOLOAnchorGenerator') and not any(
            isinstance(stride, float) for stride in part.get('strides') or ()
        ):
            yield place, plain(part)


def unmatched(generator: Mapping[str, Any], boxes: torch.Tensor, images: torch.Tensor) -> float:
    """The share of boxes that no anchor overlaps by half."""
    from mmdet.registry import TASK_UTILS

    built = TASK_UTILS.build({**generator, '_scope_': 'mmdet'})  # whatever was run before
    return float((best_overlap(boxes, images, built) < OVERLAP).float().mean())


def _best(
    generator: dict[str, Any], boxes: torch.Tensor, images: torch.Tensor
) -> tuple[dict[str, Any], float]:
    """The nearest to a generator that leaves few out, else the one that leaves out fewest."""
    found = None
    for other in _variants(generator, boxes):
        for factor in FACTORS:
            trial = _times(dict(generator, **other), factor)
            share = unmatched(trial, boxes, images)
            if share <= SHARE:
                return trial, share
            if found is None or share < found[1] - 0.01:
                found = trial, share
    assert found is not None
    return found


def _variants(generator: Mapping[str, Any], boxes: torch.Tensor) -> Iterator[dict[str, Any]]:
    """As it is; a size more in each map; other ratios, evenly over those of the objects; both."""
    yield {}
    scales = generator.get('scales')
    more = dict(scales=[scales[0], 1.5 * scales[0]]) if scales and len(scales) == 1 else {}
    if more:
        yield more
    number = len(generator.get('ratios') or ())
    if number > 1:
        width, height = (boxes[:, 2:] - boxes[:, :2]).numpy().T
        shares = (np.arange(number) + 0.5) / number
        found = np.quantile(height / np.maximum(width, 1e-6), shares)
        ratios = dict(ratios=[float(f'{ratio:.2g}') for ratio in found])
        yield ratios
        if more:
            yield {**more, **ratios}


def _times(generator: dict[str, Any], factor: float) -> dict[str, Any]:
    if factor == 1:
        return generator
    new = dict(generator)
    if new.get('octave_base_scale') is not None:
        new['octave_base_scale'] = _product(new['octave_base_scale'], factor)
    elif new.get('scales') is not None:
        new['scales'] = [_product(scale, factor) for scale in new['scales']]
    if new.get('base_sizes') and type_name(new) == 'YOLOAnchorGenerator':
        new['base_sizes'] = [
            [tuple(max(1, round(side * factor)) for side in size) for size in level]
            for level in new['base_sizes']
        ]
    return new


def _product(scale: float, factor: float) -> float:
    product = scale * factor
    return int(product) if product == int(product) else product


def _placed(objects: NDArray[Any], sizes: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (N, 4) of that size somewhere in their images, and (N, 2) the images' sizes."""
    step = max(1, -(-len(objects) // OBJECTS))
    objects, sizes = objects[::step], sizes[::step]
    rng = np.random.default_rng(0)  # where they lie does not matter, only that it is no fixed place
    first = rng.random(objects.shape) * np.maximum(sizes - objects, 0)
    boxes = np.concatenate([first, first + objects], 1)
    return torch.from_numpy(boxes).float(), torch.from_numpy(np.asarray(sizes)).float()
