"""Two sets of detections, box by box.

Shapes: N and M boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: A box is the same where it is no farther off, in pixels, and its score neither.
MOST_PIXELS, MOST_SCORE = 1e-2, 1e-4


class Found(NamedTuple):
    """Boxes (N, 4), scores (N,), labels (N,) and, where there are any, masks (N, ...)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Pairing:
    """Which boxes of two sets are the same.

    Attributes:
        first: (P,) indices of those of the one,
        second: of their partners in the other.
        rest: of the one without a partner,
        other_rest: and of the other.
        pixels: how far paired coordinates are apart at most,
        score: and their scores.
    """

    first: Tensor
    second: Tensor
    rest: Tensor
    other_rest: Tensor
    pixels: float
    score: float


def pair(one: Found, other: Found) -> Pairing:
    """Pair boxes of the same label, nearest first, that are the same within the limits."""
    pixels = (one.boxes[:, None] - other.boxes[None]).abs().amax(dim=2)  # (N, M)
    scores = (one.scores[:, None] - other.scores[None]).abs()
    same = one.labels[:, None] == other.labels[None]
    same &= (pixels <= MOST_PIXELS) & (scores <= MOST_SCORE)
    first, second = same.nonzero().unbind(1)
    order = (pixels[first, second] / MOST_PIXELS + scores[first, second] / MOST_SCORE).argsort()
    taken: dict[int, int] = {}
    used: set[int] = set()
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if i not in taken and j not in used:
            taken[i] = j
            used.add(j)
    first = torch.tensor(sorted(taken), dtype=torch.int64)
    second = torch.tensor([taken[i] for i in first.tolist()], dtype=torch.int64)
    return Pairing(
        first=first,
        second=second,
        rest=_without(len(one.boxes), first),
        other_rest=_without(len(other.boxes), second),
        pixels=float(pixels[first, second].max()) if len(first) else 0.0,
        score=float(scores[first, second].max()) if len(first) else 0.0,
    )


def _without(number: int, index: Tensor) -> Tensor:
    left = torch.ones(number, dtype=torch.bool)
    left[index] = False
    return left.nonzero()[:, 0]
