"""Which boxes rounding alone may find or lose: scores and overlaps within it of a decision.

Suppression is a chain of decisions, each of which may turn by the last bit of a number and change
all that follow. So two programs that compute the same are not compared box by box: what every
rounding finds must be there, and nothing else than what some rounding finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .candidates import Candidates
from .operators import Rule, shifted


@dataclass(frozen=True)
class Doubt:
    """How far numbers may be off.

    Attributes:
        score: scores, by so much.
        pixels: coordinates of boxes.
    """

    score: float
    pixels: float


class Fates(NamedTuple):
    """Which candidates (N,) some rounding keeps, and which every rounding keeps."""

    possible: Tensor
    sure: Tensor


class Possible(NamedTuple):
    """Boxes (N, 4), scores (N,) and labels (N,), and :class:`Fates` of each."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    possible: Tensor
    sure: Tensor


@torch.no_grad()
def fates(candidates: Candidates, rule: Rule, doubt: Doubt) -> Fates:
    """What becomes of each candidate."""
    boxes, scores, groups, sure = candidates
    present = torch.ones_like(groups, dtype=torch.bool) if sure is None else sure
    sides = boxes[:, 2:] - boxes[:, :2]
    least = float('-inf') if rule.least is None else rule.least
    surely = present & (scores > rule.score + doubt.score)
    surely &= (sides > least + 2 * doubt.pixels).all(dim=1)
    maybe = (scores > rule.score - doubt.score) & (sides > least - 2 * doubt.pixels).all(dim=1)
    moved = shifted(boxes, groups)
    # Coordinates are no finer than the shifted ones.
    off = doubt.pixels + moved.abs().amax(dim=1) * torch.finfo(moved.dtype).eps
    for group in groups.unique():
        here = (maybe & (groups == group)).nonzero()[:, 0]
        here = here[scores[here].sort(descending=True).indices]
        kept = _suppress(moved[here], off[here], scores[here], surely[here], rule, doubt)
        maybe[here], surely[here] = kept
    return _best(scores, maybe, surely, rule, doubt)


def _suppress(
    boxes: Tensor, off: Tensor, scores: Tensor, sure: Tensor, rule: Rule, doubt: Doubt
) -> Fates:
    """Those of one group, best first."""
    overlap, error = _overlaps(boxes, off)
    certain, thinkable = overlap - error > rule.overlap, overlap + error > rule.overlap
    maybe = torch.ones_like(sure)
    sure = sure.clone()
    # Of two within the doubt either may be first.
    before = scores[:, None] > scores[None] + 2 * doubt.score
    near = scores[:, None] > scores[None] - 2 * doubt.score
    near.fill_diagonal_(False)
    for i in range(len(boxes)):
        # Those that may come first although they stand behind are still taken for possible.
        if (certain[:, i] & before[:, i] & sure).any():
            maybe[i] = sure[i] = False
        elif (thinkable[:, i] & near[:, i] & maybe).any():
            sure[i] = False
    return Fates(maybe, sure)


def _overlaps(boxes: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union (N, N) of boxes (N, 4), and how far it may be off."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inner = (high - low).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    union = (area[:, None] + area[None] - inner).clamp(min=1e-12)
    shorter = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    relative = (1 / torch.minimum(shorter[:, None], shorter[None])).sum(dim=2)
    error = 4 * torch.maximum(off[:, None], off[None]) * relative
    touching = ((high - low) > -2 * torch.maximum(off[:, None], off[None])[..., None]).all(dim=2)
    return inner / union, torch.where(touching, error.clamp(max=1), torch.zeros_like(error))


def _best(scores: Tensor, maybe: Tensor, sure: Tensor, rule: Rule, doubt: Doubt) -> Fates:
    """Of those that are left, the best that there is room for."""
    certain = scores[sure].sort().values
    thinkable = scores[maybe].sort().values
    ahead = len(certain) - torch.searchsorted(certain, scores + 2 * doubt.score, right=True)
    level = len(thinkable) - torch.searchsorted(thinkable, scores - 2 * doubt.score)
    return Fates(maybe & (ahead < rule.most), sure & (level - 1 < rule.most))
