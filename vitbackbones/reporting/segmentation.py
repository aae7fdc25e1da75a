"""All figures of a segmentor on a test set, from label maps that are and that are predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .precision import mean

#: Near a border are pixels that have another class within this share of the image's diagonal.
NEAR = 0.01
#: What truths are called that have no class and count all the same.
NO_CLASS = 'no class'


@dataclass
class Segmentation:
    """What a segmentor gets right and wrong, added up image by image, as mmseg's IoUMetric does.

    Attributes:
        classes: names by label.
        ignore: the label of pixels that do not count. Others that are of no class are wrong
            whatever is predicted there.
        absent: counts in means in the place of what is not known; None leaves it out.
        near: pixels near borders, (K + 1, K): truths in rows, predictions in columns; in the last
            row what is of no class.
        inside: the others, (K + 1, K).
        per_image: a row for each image.
    """

    classes: Sequence[str]
    ignore: int = 255
    absent: float | None = None
    near: np.ndarray = field(init=False)
    inside: np.ndarray = field(init=False)
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.classes) + 1, len(self.classes))
        self.near, self.inside = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, name: str, truth: np.ndarray, found: np.ndarray) -> None:
        """Take in an image; label maps (H, W), predictions all below the number of classes."""
        counted = truth != self.ignore
        close = near_borders(truth, counted & (truth < len(self.classes)))
        near = self._matrix(truth, found, counted & close)
        inside = self._matrix(truth, found, counted & ~close)
        self.near += near
        self.inside += inside
        matrix = near + inside
        pixels, right = int(matrix.sum()), int(np.trace(matrix))
        wrong = matrix.copy()
        np.fill_diagonal(wrong, 0)
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        worst = f'{[*self.classes, NO_CLASS][row]} taken for {self.classes[column]}'
        self.per_image.append(
            dict(
                image=name,
                pixels=pixels,
                accuracy=_accuracy(matrix),
                iou=_known(mean(_ious(matrix))),
                wrong_pixels=pixels - right,
                wrong_near_borders=int(near.sum() - np.trace(near)),
                most=worst if wrong.any() else '',
                most_pixels=int(wrong.max()),
            )
        )

    def _matrix(self, truth: np.ndarray, found: np.ndarray, where: np.ndarray) -> np.ndarray:
        count = len(self.classes)
        rows = np.minimum(truth[where].astype(np.int64), count)
        both = rows * count + found[where]
        return np.bincount(both, minlength=(count + 1) * count).reshape(-1, count)

    def figures(self) -> dict[str, Any]:
        """All that report.json says."""
        every = self.near + self.inside
        iou, near, inside = _ious(every), _where_known(self.near), _where_known(self.inside)
        recall = _over(np.diag(every), every[:-1].sum(1))
        precision = _over(np.diag(every), every.sum(0))
        names, matrix = list(self.classes), every[:-1]
        if every[-1].any():
            names, matrix = [*names, NO_CLASS], np.c_[every, np.zeros(len(every), np.int64)]
        return dict(
            task='segmentation',
            images=len(self.per_image),
            pixels=int(every.sum()),
            ignored_label=self.ignore,
            absent_classes_count_as=self.absent,
            iou=self._mean(iou),
            accuracy=_accuracy(every),
            class_accuracy=self._mean(recall),
            border=dict(
                share_of_diagonal=NEAR,
                pixels=int(self.near.sum()),
                iou_near=_known(mean(near)),
                iou_inside=_known(mean(inside)),
            ),
            classes=[
                dict(
                    name=name,
                    pixels=int(every[i].sum()),
                    iou=_known(iou[i]),
                    accuracy=_known(recall[i]),
                    precision=_known(precision[i]),
                    iou_near_borders=_known(near[i]),
                    iou_inside=_known(inside[i]),
                )
                for i, name in enumerate(self.classes)
            ],
            confusion=dict(names=names, matrix=matrix.tolist()),
            per_image=self.per_image,
        )

    def _mean(self, values: np.ndarray) -> float | None:
        """The mean of all classes, as the metric has it."""
        if self.absent is not None:
            values = np.nan_to_num(values, nan=self.absent)
        return _known(mean(values))


def near_borders(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each pixel of a label map (H, W) has another class nearby, see :data:`NEAR`.

    Nearby are the pixels of OpenCV's ellipse.

    Args:
        known: pixels that have a class, (H, W); what is not known is no border to anything.
    """
    import cv2

    # OpenCV knows no larger integers.
    kind = np.uint8 if labels.max(initial=0, where=known) < 256 else np.uint16
    reach = max(1, round(NEAR * math.hypot(*labels.shape)))
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    highest = cv2.dilate(np.where(known, labels, 0).astype(kind), ellipse)
    lowest = cv2.erode(np.where(known, labels, np.iinfo(kind).max).astype(kind), ellipse)
    return known & (highest != lowest)


def _ious(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (K,); nan where it is neither there nor predicted."""
    right = np.diag(matrix)
    return _over(right, matrix.sum(0) + matrix[:-1].sum(1) - right)


def _where_known(matrix: np.ndarray) -> np.ndarray:
    """The same of a part of the pixels, (K,); nan where a class is not there at all."""
    return np.where(matrix[:-1].sum(1) > 0, _ious(matrix), np.nan)


def _accuracy(matrix: np.ndarray) -> float | None:
    """The share of the pixels that have a class whose class is right."""
    labelled = int(matrix[:-1].sum())
    return float(np.trace(matrix) / labelled) if labelled else None


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
