"""Which prediction has found which truth, as COCO decides it, at all overlaps and sizes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .objects import Objects, Pairs

#: Ranges of areas in pixels, as COCO has them.
SIZES = {
    'all': (0.0, 1e10),
    'small': (0.0, 32.0**2),
    'medium': (32.0**2, 96.0**2),
    'large': (96.0**2, 1e10),
}
OVERLAPS = np.linspace(0.5, 0.95, 10)
#: Predictions of one class that count in one image.
MOST = 100
NOBODY = -1


@dataclass(frozen=True)
class Matches:
    """Results for A ranges of areas and T overlaps, of N predictions and M truths.

    Attributes:
        truth: which one each prediction has found, :data:`NOBODY` for none, (A, T, N).
        ignored: predictions that count neither as right nor as wrong, (A, T, N).
        left_out: truths that nobody has to find, (A, M).
    """

    truth: np.ndarray
    ignored: np.ndarray
    left_out: np.ndarray

    def first(self) -> Matches:
        """Those of the first range and overlap alone."""
        return Matches(self.truth[:1, :1], self.ignored[:1, :1], self.left_out[:1])

    def take(self, chosen: np.ndarray) -> Matches:
        """Those of predictions where ``chosen``, (N,) of bool, is true.

        They are as if there were no others, where these have found nothing or have lower scores.
        """
        return Matches(self.truth[..., chosen], self.ignored[..., chosen], self.left_out)


def match(
    truths: Objects,
    found: Objects,
    pairs: Pairs,
    *,
    sizes: Sequence[str] = tuple(SIZES),
    overlaps: Sequence[float] | np.ndarray = OVERLAPS,
) -> Matches:
    """Give truths to predictions of their class, the one with the highest score first.

    Each takes the truth that it overlaps most among those that are free. Only where none is free
    it takes one that is left out: a crowd, which is never used up, or one of another size.
    """
    ranges = np.array([SIZES[name] for name in sizes])
    least = np.minimum(np.asarray(overlaps, float), 1 - 1e-10)
    shape = (len(ranges), len(least))
    left_out = truths.crowd | _outside(truths.area, ranges)
    given = np.full((*shape, len(found)), NOBODY)
    near = pairs.where(
        (found.label[pairs.found] == truths.label[pairs.truth]) & (pairs.overlap >= least.min())
    )
    ahead = np.argsort(-found.score[near.found], kind='stable')
    near = Pairs(near.found[ahead], near.truth[ahead], near.overlap[ahead])
    _, starts = np.unique(near.found, return_index=True)
    starts = np.sort(starts)  # pairs of one prediction stand together, the highest score first
    used = np.zeros((*shape, len(truths)), bool)
    stops = np.append(starts, len(near.found))[1:]
    for start, stop in zip(starts, stops, strict=True):
        mine, overlap = near.truth[start:stop], near.overlap[start:stop]
        free = (~used[..., mine] | truths.crowd[mine]) & (overlap >= least[:, None])  # (A, T, k)
        if not free.any():
            continue
        # A truth that counts comes before all that do not; of equal ones the last, as in COCO.
        worth = np.where(free, overlap + 2.0 * ~left_out[:, None, mine], -1.0)
        best = len(mine) - 1 - worth[..., ::-1].argmax(-1)
        taken, rows, columns = mine[best], *np.nonzero(free.any(-1))
        chosen = taken[rows, columns]
        given[rows, columns, near.found[start]] = chosen
        used[rows, columns, chosen] = True
    outside = _outside(found.area, ranges)[:, None]  # (A, 1, N)
    unseen = np.append(left_out, np.zeros((len(ranges), 1), bool), 1)  # the last one is NOBODY
    of_truth = np.stack([row[where] for row, where in zip(unseen, given, strict=True)])
    ignored = np.where(given == NOBODY, outside, of_truth)
    return Matches(given, ignored, left_out)


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Whether areas (N,) are outside of ranges (A, 2): (A, N)."""
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])
