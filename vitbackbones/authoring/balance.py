"""Classes of label maps that few pixels show, and how much they count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitbackbones.data.nodes import type_name

from .draft import Draft
from .thickness import MAPS

#: A class with a smaller part of the pixels is rare. The most frequent answer is never such a one.
RARE = 0.05

#: The weight of a class is no more than so many times that of the most frequent one.
MOST = 8.0


def pixel_shares(maps: Sequence[Path], classes: int) -> NDArray[np.float64]:
    """(C,) the part of the pixels that each class has, of those that are learnt.

    Args:
        maps: label maps; at most :data:`~.thickness.MAPS` of them, evenly chosen, are read.
    """
    counts = np.zeros(classes)
    for path in maps[:: max(1, -(-len(maps) // MAPS))]:
        with Image.open(path) as image:
            counts += np.bincount(np.asarray(image).ravel(), minlength=256)[:classes]
    return counts / max(counts.sum(), 1)


def weights_of(shares: NDArray[np.float64]) -> list[float]:
    """(C,) weights by the root of how rare classes are, one for a pixel on average.

    Empty if none is rare.
    """
    seen = shares[shares > 0]
    if not len(seen) or seen.min() >= RARE:
        return []
    weights = np.ones_like(shares)
    weights[shares > 0] = np.minimum(np.sqrt(seen.max() / seen), MOST)
    return [float(f'{weight:.3g}') for weight in weights / (weights * shares).sum()]


def balance(draft: Draft, shares: NDArray[np.float64]) -> None:
    """Let rare classes count more in the losses of a segmentor of ours."""
    weights = weights_of(shares)
    for key in ('decode_head', 'auxiliary_head') if weights else ():
        place = f'model.{key}.loss_decode'
        loss = draft.get(place)
        if type_name(loss or {}) != 'CrossEntropyLoss' or loss.get('use_sigmoid'):
            continue
        why = f'The rarest class has {shares[shares > 0].min():.1%} of the pixels.'
        draft.set(f'{place}.class_weight', weights, f'Rare classes count more. {why}')
        if key == 'decode_head':
            draft.said.append(f'balance: classes count {weights}. {why}')
