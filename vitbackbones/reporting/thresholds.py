"""Precision, recall and F1 from each score on, and the threshold with the best F1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np

#: Scores of the curves over score.
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Sweep:
    """What is had by keeping predictions from a score on, for every score that there is.

    Attributes:
        score: falling, (S,); each once.
        hits: right predictions from it on, (S,).
        tried: all that count, (S,).
        truths: how many there are to be found.
    """

    score: np.ndarray
    hits: np.ndarray
    tried: np.ndarray
    truths: int

    @property
    def precision(self) -> np.ndarray:
        """Share of those kept that are right, (S,)."""
        return self.hits / np.maximum(self.tried, 1)

    @property
    def recall(self) -> np.ndarray:
        """Share of the truths that are found, (S,); nan where there is none."""
        return self.hits / (self.truths or math.nan)

    @property
    def f1(self) -> np.ndarray:
        """2 P R / (P + R) of both, (S,); nan where there is no truth."""
        return 2 * self.hits / (self.tried + (self.truths or math.nan))

    def best(self) -> float | None:
        """A threshold with the highest F1, of equals the highest; None if nothing is right.

        It has as few digits as keep what the score itself keeps.
        """
        if not self.hits.size or not self.hits[-1]:
            return None
        i = int(self.f1.argmax())
        lower = float(self.score[i + 1]) if i + 1 < len(self.score) else -math.inf
        return shortest(lower, float(self.score[i]))

    def at(self, threshold: float) -> dict[str, float]:
        """Precision, recall and F1 of what is kept from ``threshold`` on.

        Where nothing is kept there is no precision, and without a truth no recall and F1: nan.
        """
        kept = int(np.searchsorted(-self.score, -threshold, side='right'))
        if not kept:
            nothing = 0.0 if self.truths else math.nan
            return dict(precision=math.nan, recall=nothing, f1=nothing)
        curves = dict(precision=self.precision, recall=self.recall, f1=self.f1)
        return {name: float(curve[kept - 1]) for name, curve in curves.items()}

    def on_grid(self) -> dict[str, list[float]]:
        """Curves over :data:`GRID`."""
        points = [self.at(float(score)) for score in GRID]
        return {key: [point[key] for point in points] for key in ('precision', 'recall', 'f1')}


def sweep(score: np.ndarray, right: np.ndarray, truths: int) -> Sweep:
    """All thresholds of predictions that count.

    Args:
        score: (N,).
        right: whether each has found a truth, (N,).
    """
    order = np.argsort(-score, kind='stable')
    scores, hits = score[order], right[order].cumsum()
    last = np.ones(len(scores), bool)
    last[:-1] = scores[1:] != scores[:-1]  # equal scores are kept together
    return Sweep(scores[last], hits[last], np.arange(1, len(scores) + 1)[last], truths)


def shortest(lower: float, score: float) -> float:
    """The number with the fewest decimals, from two on, above ``lower`` and up to ``score``."""
    exact = Decimal(repr(score))
    for digits in range(2, 20):
        short = float(exact.quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))
        if short > lower:
            return short
    return score


def exact(value: float) -> str:
    """A threshold with all its decimals, two at least: a shorter one would keep something else."""
    short = f'{value:.2f}'
    return short if float(short) == value else repr(value)
