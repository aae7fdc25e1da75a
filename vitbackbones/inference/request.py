"""What is wanted of predictions: formats, a threshold, some of the classes, tiles."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitbackbones.data.values import listed
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task

from .drawing import SCORE

FORMATS = ('coco', 'yolo', 'csv')
#: Those that fit a task, and what is written without any.
_FITTING = {
    Task.DETECTION: ('coco', 'yolo', 'csv'),
    Task.SEGMENTATION: ('csv',),
    Task.CLASSIFICATION: ('csv',),
}
_ALWAYS = {
    Task.SEGMENTATION: 'a segmentor, whose label maps are written in any case',
    Task.CLASSIFICATION: 'a classifier, whose predictions.json is written in any case',
}
UNLABELLED = 255  # pixels of classes that are not wanted


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        formats: some of :data:`FORMATS`; without any what the task has: COCO of a detector.
        threshold: the least score of what is drawn and written; None draws, and writes as YOLO and
            CSV, from 0.3 on, and everything as COCO.
        classes: names of those that are kept; None for all.
        tile: width and height of the tiles that a detector gets, in pixels, beside the whole image.
    """

    formats: Sequence[str] = ()
    threshold: float | None = None
    classes: Sequence[str] | None = None
    tile: int | None = None

    @property
    def score(self) -> float:
        """From which on objects are drawn."""
        return SCORE if self.threshold is None else self.threshold

    def check(self) -> None:
        """UserError for what no model could do."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f'--threshold {self.threshold:g} must be a score from 0 to 1')
        for name in self.formats:
            if name not in FORMATS:
                raise UserError(f'--format {name}: unknown, choose from {", ".join(FORMATS)}')
        if self.tile is not None and self.tile < 32:
            raise UserError(f'--tile {self.tile} must be a number of pixels from 32 on')

    def check_for(self, task: Task) -> None:
        """UserError for what models of that task cannot do."""
        for name in self.formats:
            if name not in _FITTING[task]:
                raise UserError(
                    f'--format {name} is for detectors, not for {_ALWAYS[task]}: '
                    f'choose {" or ".join(_FITTING[task])}, or leave it out'
                )
        if task is Task.SEGMENTATION and self.threshold is not None:
            raise UserError('--threshold is for scores, and label maps have none: leave it out')
        if task is not Task.DETECTION and self.tile is not None:
            raise UserError(
                '--tile is for detectors'
                + (
                    ": a segmentor is tested in windows by test_cfg.mode='slide'"
                    if task is Task.SEGMENTATION
                    else ''
                )
            )


@dataclass(frozen=True)
class Kept:
    """What is kept of predictions.

    Attributes:
        classes: all that the model has, by label.
        labels: those wanted, in their order; all of them if nothing was said.
        threshold: the least score; None for any.
    """

    classes: Sequence[str]
    labels: Sequence[int]
    threshold: float | None = None

    @classmethod
    def of(cls, request: Request, classes: Sequence[str], task: Task) -> Kept:
        """What a request keeps of a model's predictions.

        Raises:
            UserError: the model has no such class, or so many that label maps cannot leave any out.
        """
        for name in request.classes or ():
            if name not in classes:
                lower = {each.lower(): each for each in classes}
                near = difflib.get_close_matches(name.lower(), lower, n=3)
                raise UserError(
                    f'--classes {name}: the model has no such class'
                    + (f'; close to it: {", ".join(lower[each] for each in near)}' if near else '')
                    + f'; its classes are {listed(classes, 30)}'
                )
        wanted = request.classes or classes
        labels = [label for label, name in enumerate(classes) if name in wanted]
        if task is Task.SEGMENTATION and len(labels) < len(classes) > UNLABELLED:
            raise UserError(
                f'--classes: the label maps of {len(classes)} classes have no value for none of '
                f'them, {UNLABELLED} classes are the most'
            )
        return cls(classes, labels, request.threshold)

    @property
    def names(self) -> list[str]:
        return [self.classes[label] for label in self.labels]

    def reduce(self, sample: Any, task: Task) -> None:
        """Take what is not kept out of a data sample.

        Boxes go, pixels become :data:`UNLABELLED`, and scores of a classifier -1.
        """
        wanted = torch.tensor(self.labels)
        if task is Task.DETECTION:
            found = sample.pred_instances
            kept = torch.isin(found.labels, wanted)
            if self.threshold is not None:
                kept &= found.scores >= self.threshold
            if not kept.all():
                sample.pred_instances = found[kept]
        elif task is Task.SEGMENTATION and len(self.labels) < len(self.classes):
            data = sample.pred_sem_seg.data
            data[~torch.isin(data, wanted.to(data.dtype))] = UNLABELLED
        elif task is Task.CLASSIFICATION:
            scores = sample.pred_score.clone()
            unwanted = torch.ones_like(scores, dtype=torch.bool)
            unwanted[wanted] = False
            if self.threshold is not None:
                unwanted |= scores < self.threshold
            scores[unwanted] = -1
            sample.pred_score = scores
