"""How much a head has to hold: objects in an image, and channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitbackbones.data.configs import as_list

from .draft import Draft
from .pipelines import FEW_IMAGES
from .scale import RECIPE, Scale

#: Never fewer: proposals that are kept for an image, in all and for each of its objects, and those
#: that a box head is taught with.
LEAST_PROPOSALS, PROPOSALS_PER_OBJECT, LEAST_SAMPLES = 250, 5, 128

#: Groups of channels with statistics of their own: at most so many, of no fewer channels. What is
#: pooled to one pixel has no other values than those.
GROUPS, GROUP = 32, 16

#: What a detector finds in an image by default.
FOUND = 100


def crowd(objects: NDArray[Any]) -> int:
    """Objects in an image that only one in a hundred exceeds.

    Args:
        objects: (M, 3), the last column being the index of their image.
    """
    if not len(objects):
        return 0
    return int(np.ceil(np.quantile(np.bincount(objects[:, 2].astype(int)), 0.99)))


def fewer_proposals(draft: Draft, scale: Scale, objects: NDArray[Any]) -> None:
    """Cut the proposals and samples that are made for COCO's images to the area of smaller ones."""
    proposals = max(LEAST_PROPOSALS, PROPOSALS_PER_OBJECT * crowd(objects))
    share = scale.size[0] * scale.size[1] / (RECIPE[0] * RECIPE[1])
    samples = [
        f'model.train_cfg.rcnn.{i}' for i in range(len(as_list(draft.get('model.train_cfg.rcnn'))))
    ]
    if isinstance(draft.get('model.train_cfg.rcnn'), dict):
        samples = ['model.train_cfg.rcnn']
    places = [(f'{place}.sampler.num', LEAST_SAMPLES) for place in samples]
    for part in ('model.train_cfg.rpn_proposal', 'model.test_cfg.rpn'):
        places += [(f'{part}.{key}', proposals) for key in ('nms_pre', 'max_per_img')]
    why = (
        f'Images of {scale.size[0]} x {scale.size[1]} are {share:.0%} of the area that these '
        'numbers are made for.'
    )
    for place, least in places:
        old = draft.get(place)
        if isinstance(old, int) and share < 1:
            new = min(old, max(least, round(old * share)))
            if new != old:
                draft.set(place, new, why)
                why = ''


def enough_found(draft: Draft, objects: NDArray[Any]) -> None:
    """Let no more than one image in a hundred have more objects than may be found."""
    crowded = crowd(objects)
    for place in ('model.test_cfg.max_per_img', 'model.test_cfg.rcnn.max_per_img'):
        old = draft.get(place)
        if isinstance(old, int) and old < 2 * crowded and crowded > FOUND / 2:
            new = -(-2 * crowded // 50) * 50
            draft.set(place, new, f'There are images with {crowded} objects.')


def norms_of_small_batches(draft: Draft) -> None:
    """Let a segmentor's heads normalise each image by itself, in groups of channels (Wu, He 2018).

    In batches of the few images that one machine takes, BatchNorm learns with other statistics than
    it predicts with, above all where images are of several kinds; what is pooled to one pixel has
    hardly any.
    """
    why = 'Statistics of an image, not of the few in a batch on one machine.'
    changed = []
    for place in ('model.decode_head', 'model.auxiliary_head'):
        head = draft.get(place) or {}
        norm = head.get('norm_cfg')
        if norm and 'BN' in norm['type']:
            channels: int = head['channels']
            most = max(1, min(GROUPS, channels // GROUP))
            groups = next(n for n in range(most, 0, -1) if channels % n == 0)
            draft.drop(f'{place}.norm_cfg')
            draft.set(f'{place}.norm_cfg', dict(type='GN', num_groups=groups), why)
            changed.append(f'{place}.norm_cfg')
    if changed:
        draft.said.append(f'norms: {why} {", ".join(changed)} become GroupNorm.')


def narrower_heads(draft: Draft, images: int) -> None:
    """Let a segmentor's heads be no wider than the widest map that they read, for few images."""
    changed = []
    for place in ('model.decode_head', 'model.auxiliary_head'):
        head = draft.get(place)
        if not isinstance(head, dict) or images >= FEW_IMAGES:
            continue
        widest = max(as_list(head['in_channels']))
        width = 1 << (widest.bit_length() - 1)  # a power of two
        if width < head['channels']:
            draft.set(
                f'{place}.channels',
                width,
                f'No wider than its maps, not {head["channels"]}, for {images} images are few.',
            )
            changed.append(f'{place}.channels={width}')
    if changed:
        said = f'no wider than the maps that heads read, for {images} images are few'
        draft.said.append(f'channels: {", ".join(changed)}, {said}.')
