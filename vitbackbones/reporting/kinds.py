"""What is wrong with each prediction, and the predictions in which one kind of error is put right.

A prediction that COCO counts as wrong at :data:`AT` is of the first kind that it fits:

- class: it lies on an object of another class;
- place: it overlaps an object of its class, too little;
- both: it overlaps an object of another class only, and too little;
- duplicate: it lies on an object of its class that a prediction with a higher score has found;
- background: there is no object.

An object is *missed* that nothing has found and that no error of class or place would find, were
it put right. What lies on a crowd of its class is no error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .matching import MOST, NOBODY, Matches, match
from .objects import TOUCH, Objects, Pairs, objects, pairs_of, strongest
from .precision import average, mean

#: The overlap from which on a prediction lies on an object.
AT = 0.5
KINDS = ('class', 'place', 'both', 'duplicate', 'background', 'missed')
#: Of predictions that have no error.
RIGHT, IGNORED = -1, -2


@dataclass(frozen=True)
class Errors:
    """Kinds of all errors.

    Attributes:
        kind: position in :data:`KINDS` of each prediction, or :data:`RIGHT`, or
            :data:`IGNORED`, (N,).
        about: the truth that it has found, or that its error is about; NOBODY without, (N,).
        missed: truths that are missed, (M,) of bool.
        unfound: truths that nothing has found, those that are missed and others, (M,) of bool.
        matches: who has found whom at :data:`AT`, of any size.
    """

    kind: np.ndarray
    about: np.ndarray
    missed: np.ndarray
    unfound: np.ndarray
    matches: Matches

    def count(self) -> dict[str, int]:
        """How many errors there are of each kind."""
        numbers = {name: int((self.kind == i).sum()) for i, name in enumerate(KINDS[:-1])}
        return {**numbers, 'missed': int(self.missed.sum())}


def errors_of(
    truths: Objects, found: Objects, pairs: Pairs, matches: Matches | None = None
) -> Errors:
    """The kind of error of each prediction, and the truths that are missed.

    Args:
        matches: those at :data:`AT`, of any size, where they are known.
    """
    if matches is None:
        matches = match(truths, found, pairs, sizes=['all'], overlaps=[AT])
    given, ignored = matches.truth[0, 0], matches.ignored[0, 0]
    known = pairs.where(~truths.crowd[pairs.truth])
    same = found.label[known.found] == truths.label[known.truth]
    on_own, own = _best(known.where(same), len(found))
    on_other, other = _best(known.where(~same), len(found))
    wrong = (given == NOBODY) & ~ignored
    kind, about = np.full(len(found), RIGHT), given.copy()
    kind[ignored] = IGNORED
    cases = [
        (on_other >= AT, other),
        ((on_own >= TOUCH) & (on_own < AT), own),
        ((on_other >= TOUCH) & (on_own < AT), other),
        (on_own >= AT, own),
        (np.full(len(found), True), np.full(len(found), NOBODY)),
    ]
    for i, (fits, whose) in enumerate(cases):
        chosen = wrong & (kind == RIGHT) & fits
        kind[chosen], about[chosen] = i, whose[chosen]
    unfound = ~truths.crowd
    unfound[given[given != NOBODY]] = False
    missed = unfound.copy()
    missed[about[(kind == KINDS.index('class')) | (kind == KINDS.index('place'))]] = False
    return Errors(kind, about, missed, unfound, matches)


def _best(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of ``count`` predictions the largest overlap and with whom; 0 and NOBODY without."""
    overlap, truth = np.zeros(count), np.full(count, NOBODY)
    order = np.argsort(pairs.overlap, kind='stable')
    overlap[pairs.found[order]] = pairs.overlap[order]  # the last one stays
    truth[pairs.found[order]] = pairs.truth[order]
    return overlap, truth


def put_right(truths: Objects, found: Objects, errors: Errors, kind: str) -> Objects:
    """The predictions without the errors of one kind.

    Of those with the wrong class or place that are about one truth that nothing has found, the one
    with the highest score gets its class or place; all others are taken away, and so are errors of
    the other kinds. What is missed is found with the score 1.
    """
    if kind == 'missed':
        return _with(found, truths.take(errors.missed))
    wrong = errors.kind == KINDS.index(kind)
    if kind not in ('class', 'place'):
        return found.take(~wrong)
    candidates = np.flatnonzero(wrong & (errors.about != NOBODY))
    candidates = candidates[errors.unfound[errors.about[candidates]]]
    candidates = candidates[np.argsort(-found.score[candidates], kind='stable')]
    _, firsts = np.unique(errors.about[candidates], return_index=True)
    chosen = candidates[firsts]
    whose, kept = errors.about[chosen], ~wrong
    kept[chosen] = True
    label, box, area = found.label.copy(), found.box.copy(), found.area.copy()
    mask = None if found.mask is None else list(found.mask)
    if kind == 'class':
        label[chosen] = truths.label[whose]
    else:
        box[chosen], area[chosen] = truths.box[whose], truths.area[whose]
        if mask is not None and truths.mask is not None:
            for mine, theirs in zip(chosen, whose, strict=True):
                mask[mine] = truths.mask[theirs]
    fixed = replace(
        found, label=label, box=box, area=area, mask=None if mask is None else tuple(mask)
    )
    return fixed.take(kept)


def _with(found: Objects, more: Objects) -> Objects:
    masks = found.mask is not None and more.mask is not None
    return objects(
        np.concatenate([found.image, more.image]),
        np.concatenate([found.label, more.label]),
        np.concatenate([found.box, more.box]),
        score=np.concatenate([found.score, more.score]),
        area=np.concatenate([found.area, more.area]),
        mask=[*(found.mask or ()), *(more.mask or ())] if masks else None,
    )


def gains(truths: Objects, found: Objects, errors: Errors, classes: int) -> dict[str, float]:
    """What average precision at :data:`AT` would gain if all errors of a kind were put right.

    Each kind is put right alone, in the predictions, and these are measured anew: gains do not add
    up. nan where there is no truth.

    Args:
        found: at most :data:`~.matching.MOST` of a class in an image.
    """
    now = mean(average(truths, found, errors.matches, classes).precision)
    gained = {}
    for i, kind in enumerate(KINDS):
        fixed = put_right(truths, found, errors, kind)
        if kind in ('both', 'duplicate', 'background'):  # what goes has found nothing
            matches = errors.matches.take(errors.kind != i)
        else:
            fixed = strongest(fixed, MOST)
            near = pairs_of(truths, fixed)
            matches = match(truths, fixed, near, sizes=['all'], overlaps=[AT])
        gained[kind] = mean(average(truths, fixed, matches, classes).precision) - now
    return gained
