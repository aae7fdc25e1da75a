"""Confusion matrix of a detector, with background as one class more."""

from __future__ import annotations

import numpy as np

from .kinds import AT, IGNORED, RIGHT, Errors
from .objects import Objects, Pairs


def confusion(
    truths: Objects, found: Objects, pairs: Pairs, errors: Errors, classes: int
) -> np.ndarray:
    """What was predicted (columns) for what is there (rows), (K + 1, K + 1); the last: background.

    Right predictions are those that COCO counts as right. Of the others each is paired with the
    truth that nobody has found and that it overlaps most, from :data:`~.kinds.AT` on; pairs with
    the largest overlap come first. What is left was predicted for background, or was not found.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    right = errors.kind == RIGHT
    np.add.at(matrix, (truths.label[errors.about[right]], found.label[right]), 1)
    spare, open_ = ~right & (errors.kind != IGNORED), errors.unfound.copy()
    near = pairs.where(spare[pairs.found] & open_[pairs.truth] & (pairs.overlap >= AT))
    for i in np.argsort(-near.overlap, kind='stable'):
        mine, theirs = near.found[i], near.truth[i]
        if spare[mine] and open_[theirs]:
            matrix[truths.label[theirs], found.label[mine]] += 1
            spare[mine] = open_[theirs] = False
    np.add.at(matrix, (classes, found.label[spare]), 1)
    np.add.at(matrix, (truths.label[open_], classes), 1)
    return matrix
