"""Average precision out of matches, by class, size and overlap, as COCO computes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import NOBODY, Matches
from .objects import Objects

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Averages:
    """For A ranges of areas, T overlaps and K classes; nan where there is no truth.

    Attributes:
        precision: average precision, (A, T, K).
        recall: share of the truths that are found, (A, T, K).
        truths: their number, (A, K).
    """

    precision: np.ndarray
    recall: np.ndarray
    truths: np.ndarray


def average(truths: Objects, found: Objects, matches: Matches, classes: int) -> Averages:
    """Average precision and recall of each class."""
    sizes, overlaps, _ = matches.truth.shape
    precision = np.full((sizes, overlaps, classes), np.nan)
    recall = precision.copy()
    counts = np.zeros((sizes, classes), np.int64)
    # Equal scores stand in the order of their images.
    order = np.lexsort((found.image, -found.score, found.label))
    bounds = np.searchsorted(found.label[order], np.arange(classes + 1))
    for label in range(classes):
        mine = order[bounds[label] : bounds[label + 1]]
        counts[:, label] = (~matches.left_out & (truths.label == label)).sum(1)
        known = counts[:, label] > 0
        counted = ~matches.ignored[known][..., mine]  # (A, T, n)
        right = counted & (matches.truth[known][..., mine] != NOBODY)
        number = counts[known, label]
        precision[known, :, label], recall[known, :, label] = _of_class(right, counted, number)
    return Averages(precision, recall, counts)


def _of_class(
    right: np.ndarray, counted: np.ndarray, truths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and recall, (A, T) each, of (A, T, n) predictions by falling score."""
    hits, tried = right.cumsum(-1, dtype=np.float64), counted.cumsum(-1, dtype=np.float64)
    reached = hits / truths[:, None, None]
    precise = hits / (tried + np.spacing(1))
    # The best that can be had at this recall or a higher one.
    precise = np.maximum.accumulate(precise[..., ::-1], -1)[..., ::-1]
    means = np.zeros(right.shape[:2])
    for where in np.ndindex(*means.shape):
        positions = np.searchsorted(reached[where], RECALLS)
        inside = positions < right.shape[-1]
        means[where] = precise[where][positions[inside]].sum() / len(RECALLS)
    last = reached[..., -1] if right.shape[-1] else means * 0
    return means, last


def mean(values: np.ndarray) -> float:
    """The mean of what is known; nan if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float('nan')
