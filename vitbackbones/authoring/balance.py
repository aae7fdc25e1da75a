"""Classes of label maps that few pixels show, and a loss in which they count as the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitbackbones.data.nodes import type_name

from .draft import Draft
from .thickness import sampled
from .writing import plain

#: A class with a smaller part of the pixels is rare: by the entropy of pixels alone it is seldom
#: the answer.
RARE = 0.05

#: Of the intersection over union of each class alike, by its Lovasz extension (Berman et al. 2018).
#: Weights of classes would do, too, but mmseg's fail where pixels are ignored.
LOSS = dict(type='LovaszLoss', reduction='none')


def pixel_shares(maps: Sequence[Path], classes: int) -> NDArray[np.float64]:
    """(C,) the part of the pixels that each class has, of those that are learnt.

    Args:
        maps: label maps; at most :data:`~.thickness.MAPS` of them, evenly chosen, are read.
    """
    counts = np.zeros(classes)
    for path in sampled(maps):
        with Image.open(path) as image:
            counts += np.bincount(np.asarray(image).ravel(), minlength=256)[:classes]
    return counts / max(counts.sum(), 1)


def balance(draft: Draft, shares: NDArray[np.float64]) -> None:
    """Let rare classes count as much as others in what a segmentor of ours learns."""
    rarest = shares[shares > 0].min(initial=1)
    place = 'model.decode_head.loss_decode'
    old = plain(draft.get(place))
    if rarest >= RARE or not isinstance(old, dict) or type_name(old) != 'CrossEntropyLoss':
        return
    why = f'The rarest class has {rarest:.1%} of the pixels: all count alike in the second loss.'
    draft.set(place, [old, dict(LOSS)], why)
    draft.said.append(f'loss: {why}')
