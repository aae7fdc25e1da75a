"""How large images are to be, by their own size and that of what is to be found in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Crops are multiples of it, as the strides of all heads ask for; nothing is smaller.
DIVISOR = 32

#: Up to this size images stay as they are: that of COCO's recipes, long and short side.
RECIPE = (1333, 800)

#: Objects of half the images should have this side at least: the second of the finest anchors.
OBJECT_SIDE = 32

#: Regions of label maps should be this thick at least: heads predict one pixel of four.
THICKNESS = 4

#: Neither further from the images' own size nor from the recipe's.
MOST = 2.0


@dataclass(frozen=True)
class Scale:
    """The size that images are resized to fit into.

    Attributes:
        size: long and short side, in pixels.
        factor: what becomes of a typical image's side.
        bounded: whether ``--max-scale`` has made it smaller.
        why: in words and numbers, from the typical image on.
    """

    size: tuple[int, int]
    factor: float
    bounded: bool
    why: str

    @property
    def sentence(self) -> str:
        """What becomes of the sizes, and why."""
        what = 'stay' if self.factor == 1 else f'times {self.factor:.2g}'
        return f'Sizes {what}: {self.why}.'


def choose_scale(
    sizes: NDArray[np.int64],
    sides: NDArray[Any],
    wanted: float = OBJECT_SIDE,
    what: str = 'objects',
    largest: tuple[int, int] | None = None,
) -> Scale:
    """Choose by a typical image and a typical object.

    Args:
        sizes: (N, 2) width and height of the images.
        sides: (M,) side of each object in its image, as that of a square of equal area.
        wanted: what their median should at least become.
        what: they are, in words.
        largest: long and short side that must not be exceeded.
    """
    long, short = (float(np.median(sizes.max(1))), float(np.median(sizes.min(1))))
    least = factor = min(1.0, RECIPE[0] / long, RECIPE[1] / short)
    side = float(np.median(sides)) if len(sides) else math.inf
    bound = min(max(largest) / long, min(largest) / short) if largest else math.inf
    why = f'a typical image is {long:.0f} x {short:.0f}'
    if len(sides):
        why += f', {what} in it {side:.3g} pixels wide'
    if side * factor < wanted:
        factor = min(least * MOST, MOST, wanted / side)
        why += f', and {wanted:g} are wanted'
        if factor * side < 0.99 * wanted and factor <= bound:
            why += '; larger ones would cost too much'
    elif factor < 1:
        why += f', and recipes are made for {RECIPE[0]} x {RECIPE[1]}'
    bounded = bound < factor
    if bounded:
        why += '; --max-scale allows no more'
        if len(sides):
            why += f', and they become {side * bound:.3g}'
        factor = bound
    size = (max(DIVISOR, round(long * factor)), max(DIVISOR, round(short * factor)))
    if largest is not None:  # never above it
        size = (min(size[0], max(largest)), min(size[1], min(largest)))
    return Scale(size, factor, bounded, why)


def sides_of(objects: NDArray[Any]) -> NDArray[Any]:
    """(M,) of squares of the same area as the boxes (M, 3)."""
    return np.sqrt(objects[:, 0].astype(float) * objects[:, 1])


def resized(sizes: NDArray[np.int64], objects: NDArray[Any], scale: Scale) -> NDArray[Any]:
    """(M, 2) width and height of objects in images that were resized to fit into the scale."""
    long, short = scale.size
    factors = np.minimum(long / sizes.max(1), short / sizes.min(1))
    return objects[:, :2] * factors[objects[:, 2].astype(int)][:, None]
