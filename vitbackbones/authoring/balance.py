"""Classes of label maps that few pixels show, and a loss in which they count as the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitbackbones.data.nodes import type_name

from .draft import Draft
from .writing import plain

#: A class is rare that has less than this part of the pixels, and of what it would have if all had
#: the same: by the entropy of pixels alone it is seldom the answer.
RARE, RARE_OF_EQUAL = 0.05, 0.2

#: Of more classes the loss takes longer than the network.
MOST_CLASSES = 20

#: Of the intersection over union of each class alike, by its Lovasz extension (Berman et al. 2018).
#: Weights of classes would do, too, but mmseg's fail where pixels are ignored.
LOSS = dict(type='vitbackbones.GuardedLovaszLoss')


def balance(draft: Draft, pixels: NDArray[np.int64]) -> None:
    """Let rare classes count as much as others in what a segmentor of ours learns.

    Args:
        pixels: (C,) of the training that each class has.
    """
    shares = pixels / max(pixels.sum(), 1)
    rarest = shares[shares > 0].min(initial=1)
    place = 'model.decode_head.loss_decode'
    old = plain(draft.get(place))
    if rarest >= min(RARE, RARE_OF_EQUAL / len(pixels)) or len(pixels) > MOST_CLASSES:
        return
    if not isinstance(old, dict) or type_name(old) != 'CrossEntropyLoss':
        return
    part = f'{rarest:.1%}' if rarest >= 0.001 else 'less than 0.1%'
    why = f'The rarest class has {part} of the pixels: all count alike in the second loss.'
    draft.set(place, [old, dict(LOSS)], why)
    draft.said.append(f'loss: {why}')
