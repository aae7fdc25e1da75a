"""Which objects are found and which are not: by their size, and by how they are crowded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .matching import SIZES
from .objects import Objects, pairs_of

#: The largest overlap with another object of the image: name and where it begins.
CROWDING = (
    ('alone', 0.0),
    ('overlaps by 0.1', 0.1),
    ('overlaps by 0.3', 0.3),
    ('overlaps by 0.5', 0.5),
)


def by_size(truths: Objects, unfound: np.ndarray) -> list[dict[str, Any]]:
    """How many objects there are of each size, and how many are missed.

    Args:
        unfound: whether nothing has found it, (M,).
    """
    rows = []
    for name, (low, high) in list(SIZES.items())[1:]:
        inside = ~truths.crowd & (truths.area >= low) & (truths.area < high)
        rows.append(_row(name, inside, unfound))
    return rows


def by_crowding(truths: Objects, unfound: np.ndarray) -> list[dict[str, Any]]:
    """The same by the largest overlap with another object, of any class.

    By their boxes also where they have masks: those of neighbours hardly ever overlap.
    """
    single = replace(truths, mask=None).take(~truths.crowd)
    pairs = pairs_of(single, single)
    pairs = pairs.where(pairs.found != pairs.truth)
    overlap = np.zeros(len(single))
    np.maximum.at(overlap, pairs.found, pairs.overlap)
    starts = [start for _, start in CROWDING]
    place = np.searchsorted(starts, overlap, side='right') - 1
    lost = unfound[~truths.crowd]
    return [_row(name, place == i, lost) for i, (name, _) in enumerate(CROWDING)]


def _row(name: str, inside: np.ndarray, unfound: np.ndarray) -> dict[str, Any]:
    count, missed = int(inside.sum()), int((inside & unfound).sum())
    return dict(name=name, objects=count, missed=missed, share=missed / count if count else None)
