"""Objects that are there and objects that were predicted, as arrays, and how they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: Pairs that overlap less have nothing to do with each other.
TOUCH = 0.1


@dataclass(frozen=True)
class Objects:
    """Objects of all images.

    Attributes:
        image: position of the image among all, (N,), rising.
        label: (N,).
        box: x, y, width, height in pixels, (N, 4) of float64.
        area: in pixels, (N,).
        score: of predictions, (N,); 1 for truths.
        crowd: whether it stands for many, which it hides, (N,); no prediction does.
        mask: compressed run lengths of each, None where masks are not asked for.
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    area: np.ndarray
    score: np.ndarray
    crowd: np.ndarray
    mask: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def take(self, chosen: np.ndarray) -> Objects:
        """Those at some positions, or where a mask (N,) is true."""
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return replace(
            self,
            image=self.image[positions],
            label=self.label[positions],
            box=self.box[positions],
            area=self.area[positions],
            score=self.score[positions],
            crowd=self.crowd[positions],
            mask=None if self.mask is None else tuple(self.mask[i] for i in positions),
        )


def objects(
    image: Sequence[int] | np.ndarray,
    label: Sequence[int] | np.ndarray,
    box: Any,
    *,
    score: Any = None,
    area: Any = None,
    crowd: Any = None,
    mask: Sequence[Any] | None = None,
) -> Objects:
    """Objects from lists, in the order of their images; see :class:`Objects`.

    Args:
        score: without it they are truths.
        area: those of the boxes without it.
    """
    images, boxes = np.asarray(image, np.int64), np.asarray(box, np.float64).reshape(-1, 4)
    count = len(images)
    every = Objects(
        images,
        np.asarray(label, np.int64),
        boxes,
        boxes[:, 2] * boxes[:, 3] if area is None else np.asarray(area, np.float64),
        np.ones(count) if score is None else np.asarray(score, np.float64),
        np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        None if mask is None else tuple(mask),
    )
    order = np.argsort(images, kind='stable')
    return every if np.array_equal(order, np.arange(count)) else every.take(order)


def strongest(found: Objects, most: int) -> Objects:
    """Of each image and class the ``most`` predictions with the highest scores, those first."""
    order = np.lexsort((-found.score, found.label, found.image))
    keys = np.stack([found.image[order], found.label[order]], 1)
    first = np.ones(len(order), bool)
    first[1:] = (keys[1:] != keys[:-1]).any(1)
    starts = np.flatnonzero(first)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return found.take(order[rank < most])


@dataclass(frozen=True)
class Pairs:
    """Predictions and truths of one image that overlap by :data:`TOUCH` or more.

    Attributes:
        found: position of the prediction, (P,), rising.
        truth: position of the truth, (P,), rising for one prediction.
        overlap: intersection over union, (P,); over the prediction's own area for a crowd.
    """

    found: np.ndarray
    truth: np.ndarray
    overlap: np.ndarray

    def where(self, chosen: np.ndarray) -> Pairs:
        """Those pairs where ``chosen``, (P,) of bool, is true."""
        return Pairs(self.found[chosen], self.truth[chosen], self.overlap[chosen])

    def take(self, chosen: np.ndarray) -> Pairs:
        """Those of predictions where ``chosen``, (N,) of bool, is true, as if they were all."""
        near = self.where(chosen[self.found])
        return replace(near, found=(chosen.cumsum() - 1)[near.found])


def pairs_of(truths: Objects, found: Objects) -> Pairs:
    """All pairs that overlap, of any classes; by masks if both have them, else by boxes."""
    masks = truths.mask is not None and found.mask is not None
    images = np.unique(found.image)
    firsts, lasts = (np.searchsorted(found.image, images, side) for side in ('left', 'right'))
    begins, ends = (np.searchsorted(truths.image, images, side) for side in ('left', 'right'))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first, last, begin, end in zip(firsts, lasts, begins, ends, strict=True):
        if begin == end:
            continue
        overlap = (_by_masks if masks else _by_boxes)(truths, found, first, last, begin, end)
        mine, theirs = np.nonzero(overlap >= TOUCH)
        parts.append((mine + first, theirs + begin, overlap[mine, theirs]))
    if not parts:
        nobody = np.zeros(0, np.int64)
        return Pairs(nobody, nobody, np.zeros(0))
    return Pairs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _by_boxes(
    truths: Objects, found: Objects, first: int, last: int, begin: int, end: int
) -> np.ndarray:
    mine, theirs = found.box[first:last, None], truths.box[None, begin:end]
    return overlap_of_boxes(mine, theirs, truths.crowd[None, begin:end])


def overlap_of_boxes(mine: np.ndarray, theirs: np.ndarray, crowd: Any = False) -> np.ndarray:
    """Intersection over union of boxes (..., 4), or over the area of ``mine`` for a crowd."""
    high = np.minimum(mine[..., :2] + mine[..., 2:], theirs[..., :2] + theirs[..., 2:])
    sides = (high - np.maximum(mine[..., :2], theirs[..., :2])).clip(0)
    shared = sides[..., 0] * sides[..., 1]
    own, other = mine[..., 2] * mine[..., 3], theirs[..., 2] * theirs[..., 3]
    union = np.where(crowd, own, own + other - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _by_masks(
    truths: Objects, found: Objects, first: int, last: int, begin: int, end: int
) -> np.ndarray:
    from pycocotools import mask as coco_mask

    assert truths.mask is not None
    assert found.mask is not None
    mine, theirs = list(found.mask[first:last]), list(truths.mask[begin:end])
    return coco_mask.iou(mine, theirs, truths.crowd[begin:end].astype(np.uint8).tolist())
