"""All figures of a detector, from the objects that are there and those that it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .confusion import confusion
from .kinds import AT, KINDS, RIGHT, Errors, errors_of, gains
from .matching import MOST, NOBODY, OVERLAPS, SIZES, Matches, match
from .missed import by_crowding, by_size
from .objects import Objects, pairs_of, strongest
from .precision import RECALLS, Averages, average, mean
from .thresholds import GRID, Sweep, sweep

#: Predictions from it on are looked at one by one where no threshold is best: nothing is right.
OTHERWISE = 0.3


@dataclass(frozen=True)
class Detection:
    """What a detector gets right and wrong.

    Attributes:
        figures: all that report.json says, of what JSON has.
        truths: the objects of all images.
        kept: predictions from the common threshold on.
        errors: of those.
    """

    figures: dict[str, Any]
    truths: Objects
    kept: Objects
    errors: Errors


def measure(
    truths: Objects, found: Objects, classes: Sequence[str], images: Sequence[str]
) -> Detection:
    """Measure predictions of all images; masks where truths and predictions have them.

    Args:
        classes: names by label.
        images: names by position; an image may have no object.
    """
    found = strongest(found, MOST)
    masks = truths.mask is not None and found.mask is not None
    count = len(classes)
    pairs = pairs_of(truths, found)
    matches = match(truths, found, pairs)
    averages = average(truths, found, matches, count)
    sweeps = [_sweep(truths, found, matches, label) for label in range(count)]
    common = _sweep(truths, found, matches, None)
    best = common.best()
    threshold = OTHERWISE if best is None else best
    every = errors_of(truths, found, pairs, matches.first())
    chosen = found.score >= threshold
    kept, near = found.take(chosen), pairs.take(chosen)
    errors = errors_of(truths, kept, near, every.matches.take(chosen))
    precision: dict[str, Any] = {'masks' if masks else 'boxes': _summary(averages)}
    if masks:
        precision['boxes'] = _summary(_by_boxes(truths, found, count))
    figures = dict(
        task='detection',
        measured='masks' if masks else 'boxes',
        images=len(images),
        objects=int((~truths.crowd).sum()),
        predictions=len(found),
        average_precision=precision,
        threshold=dict(
            best=best,
            used=threshold,
            overlap=AT,
            **common.at(threshold),
        ),
        classes=[
            _of_class(name, label, averages, sweeps[label], found, threshold)
            for label, name in enumerate(classes)
        ],
        curves=dict(
            score=GRID.tolist(),
            all=common.on_grid(),
            recall=RECALLS.tolist(),
            precision={name: _curve(one) for name, one in zip(classes, sweeps, strict=True)},
        ),
        confusion=dict(
            names=[*classes, 'background'],
            matrix=confusion(truths, kept, near, errors, count).tolist(),
        ),
        errors=dict(
            kinds=list(KINDS),
            counts=errors.count(),
            counts_of_all=every.count(),
            ap50=mean(averages.precision[0, 0]),
            gains=gains(truths, found, every, count),
        ),
        missed=dict(
            by_size=by_size(truths, errors.unfound),
            by_crowding=by_crowding(truths, errors.unfound),
        ),
        per_image=_of_images(images, truths, kept, errors),
    )
    return Detection(figures, truths, kept, errors)


def _by_boxes(truths: Objects, found: Objects, classes: int) -> Averages:
    """What masks are measured by, measured by the boxes around them."""
    here = replace(truths, mask=None)
    there = replace(found, mask=None, area=found.box[:, 2] * found.box[:, 3])
    return average(here, there, match(here, there, pairs_of(here, there)), classes)


def _summary(averages: Averages) -> dict[str, Any]:
    """Means over classes: of all overlaps, of some, of each, and by size."""
    every = averages.precision
    return dict(
        ap=mean(every[0]),
        ap50=mean(every[0, 0]),
        ap75=mean(every[0, 5]),
        **{name: mean(every[i]) for i, name in enumerate(SIZES) if i},
        recall=mean(averages.recall[0]),
        by_overlap={f'{at:.2f}': mean(every[0, t]) for t, at in enumerate(OVERLAPS)},
    )


def _sweep(truths: Objects, found: Objects, matches: Matches, label: int | None) -> Sweep:
    """All thresholds of one class, or of all classes together."""
    counted, there = ~matches.ignored[0, 0], ~matches.left_out[0]
    if label is not None:
        counted, there = counted & (found.label == label), there & (truths.label == label)
    right = matches.truth[0, 0][counted] != NOBODY
    return sweep(found.score[counted], right, int(there.sum()))


def _curve(one: Sweep) -> list[float]:
    """The best precision at each recall of :data:`~.precision.RECALLS` or a higher one.

    nan without a truth, of which there is no recall.
    """
    if not one.truths or not one.hits.size:
        return [0.0 if one.truths else math.nan] * len(RECALLS)
    best = np.maximum.accumulate(one.precision[::-1])[::-1]
    positions = np.searchsorted(one.recall, RECALLS)
    return np.append(best, 0.0)[positions].tolist()


def _of_class(
    name: str, label: int, averages: Averages, one: Sweep, found: Objects, common: float
) -> dict[str, Any]:
    every = averages.precision[..., label]  # (A, T)
    best = one.best()
    return dict(
        name=name,
        objects=int(averages.truths[0, label]),
        predictions=int((found.label == label).sum()),
        ap=mean(every[0]),
        ap50=float(every[0, 0]),
        ap75=float(every[0, 5]),
        **{size: mean(every[i]) for i, size in enumerate(SIZES) if i},
        by_overlap=every[0].tolist(),
        threshold=best,
        **one.at(math.inf if best is None else best),
        at_common_threshold=one.at(common),
        curves=one.on_grid(),
    )


def _of_images(
    images: Sequence[str], truths: Objects, kept: Objects, errors: Errors
) -> list[dict[str, Any]]:
    """Of each image what was right and wrong from the common threshold on."""

    def count(where: np.ndarray) -> np.ndarray:
        return np.bincount(where, minlength=len(images))

    there = count(truths.image[~truths.crowd])
    right = count(kept.image[errors.kind == RIGHT])
    counted = count(kept.image[errors.kind >= RIGHT])
    columns: dict[str, np.ndarray] = dict(
        objects=there,
        predictions=count(kept.image),
        right=right,
        **{kind: count(kept.image[errors.kind == i]) for i, kind in enumerate(KINDS[:-1])},
        missed=count(truths.image[errors.missed]),
    )
    faults = sum((columns[kind] for kind in KINDS), np.zeros(len(images), np.int64))
    total = there + counted
    f1 = np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
    return [
        dict(
            image=name,
            **{key: int(column[i]) for key, column in columns.items()},
            faults=int(faults[i]),
            f1=float(f1[i]),
        )
        for i, name in enumerate(images)
    ]
