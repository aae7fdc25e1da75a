"""Pixel statistics: those that the weights of our backbones know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbackbones.data.nodes import type_name
from vitbackbones.engine.pixels import MEAN, STD

from .draft import Draft, dicts_in

CLOSE = 2  # grey levels that do not matter


def set_pixels(draft: Draft, owner: str) -> None:
    """Means and deviations of ImageNet in red, green and blue, where the backbone's are set.

    Images of other than three channels are left alone.

    Args:
        owner: place of the part of the model with the backbone.
    """
    parts = [
        (place, part)
        for place, part in dicts_in(draft.config.model, 'model')
        if place.rpartition('.')[2] == 'data_preprocessor'
        and f'{owner}.'.startswith(f'{place.partition(".data_preprocessor")[0]}.')
    ]
    if not parts and draft.get('data_preprocessor'):  # where mmengine's Runner looks for it, too
        parts = [('data_preprocessor', draft.config.data_preprocessor)]
    pipelines = [key for key in draft.config if key.endswith('dataloader')]
    steps = [
        part
        for key in pipelines
        for part in dicts_in(draft.config[key], key)
        if type_name(part[1]) == 'Normalize'
    ]
    for place, node in steps or parts:  # what a pipeline has normalised is not done again
        inside = steps or type_name(node) == 'ReIDDataPreprocessor'  # which has mmcv's word
        _set(draft, place, node, 'to_rgb' if inside else 'bgr_to_rgb')


def _set(draft: Draft, place: str, node: Mapping[str, Any], order: str) -> None:
    mean, std = node.get('mean'), node.get('std')
    if mean is None and 'data_preprocessor' in node:  # of several branches: the one inside
        return
    if mean is not None and len(mean) != len(MEAN):
        draft.said.append(f'pixels: {place} has {len(mean)} channels, and is left as it is')
        return
    fits = all(
        own is not None and all(abs(a - b) < CLOSE for a, b in zip(own, known, strict=True))
        for own, known in ((mean, MEAN), (std, STD))
    )
    if fits and node.get(order):
        return
    draft.said.append(
        f'pixels: {place} had mean={mean} std={std} {order}={node.get(order)}; now those of '
        'ImageNet, in red, green and blue'
    )
    why = "ImageNet's pixels, which weights of this backbone know."
    if not fits:
        draft.set(f'{place}.mean', list(MEAN), why)
        draft.set(f'{place}.std', list(STD))
        why = ''
    if not node.get(order):
        draft.set(f'{place}.{order}', True, why)
    if node.get('rgb_to_bgr'):
        draft.set(f'{place}.rgb_to_bgr', False)
