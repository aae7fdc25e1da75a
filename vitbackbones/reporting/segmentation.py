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
#: Rows of a label map that are looked at together, few enough for a processor's cache.
STRIP = 64


@dataclass
class Segmentation:
    """What a segmentor gets right and wrong, added up image by image.

    Attributes:
        classes: names by label.
        ignore: the label of pixels that do not count.
        near: pixels near borders, (K, K): truths in rows, predictions in columns.
        inside: the others, (K, K).
        per_image: a row for each image.
    """

    classes: Sequence[str]
    ignore: int = 255
    near: np.ndarray = field(init=False)
    inside: np.ndarray = field(init=False)
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.classes), len(self.classes))
        self.near, self.inside = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, name: str, truth: np.ndarray, found: np.ndarray) -> None:
        """Take in an image; label maps (H, W), predictions all below the number of classes."""
        known = (truth != self.ignore) & (truth < len(self.classes))
        close = near_borders(truth)
        near = self._matrix(truth, found, known & close)
        inside = self._matrix(truth, found, known & ~close)
        self.near += near
        self.inside += inside
        matrix = near + inside
        pixels, right = int(matrix.sum()), int(np.trace(matrix))
        wrong = matrix - np.diag(np.diag(matrix))
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        worst = f'{self.classes[row]} taken for {self.classes[column]}'
        self.per_image.append(
            dict(
                image=name,
                pixels=pixels,
                accuracy=right / pixels if pixels else None,
                iou=_known(mean(_ious(matrix))),
                wrong_pixels=pixels - right,
                wrong_near_borders=int(near.sum() - np.trace(near)),
                most=worst if wrong.any() else '',
                most_pixels=int(wrong.max()),
            )
        )

    def _matrix(self, truth: np.ndarray, found: np.ndarray, where: np.ndarray) -> np.ndarray:
        count = len(self.classes)
        both = truth[where].astype(np.int64) * count + found[where]
        return np.bincount(both, minlength=count * count).reshape(count, count)

    def figures(self) -> dict[str, Any]:
        """All that report.json says."""
        every = self.near + self.inside
        iou, near, inside = _ious(every), _where_known(self.near), _where_known(self.inside)
        recall, precision = _shares(every, 1), _shares(every, 0)
        total = int(every.sum())
        return dict(
            task='segmentation',
            images=len(self.per_image),
            pixels=total,
            iou=_known(mean(iou)),
            accuracy=float(np.trace(every) / total) if total else None,
            class_accuracy=_known(mean(recall)),
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
            confusion=dict(names=list(self.classes), matrix=every.tolist()),
            per_image=self.per_image,
        )


def near_borders(labels: np.ndarray) -> np.ndarray:
    """Whether each pixel of a label map (H, W) has another label nearby, see :data:`NEAR`.

    Nearby are the pixels of OpenCV's ellipse. A row of it has another label if it is not of one
    label, or is of another one in the middle.
    """
    import cv2

    height, width = labels.shape
    reach = max(1, round(NEAR * math.hypot(height, width)))
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    halves = ellipse.sum(1, dtype=int) // 2  # of the rows, from the top
    near = np.ascontiguousarray(reach >= _to_another(np.ascontiguousarray(labels.T), reach).T)
    beside = _to_another(labels, reach)
    within = np.empty((STRIP, width), bool)
    for top in range(0, height, STRIP):
        strip = near[top : top + STRIP]
        for down, half in enumerate(halves, start=-reach):
            first, last = max(top + down, 0), min(top + len(strip) + down, height)
            if first >= last:
                continue
            found = np.less_equal(beside[first:last], half, out=within[: last - first])
            strip[first - down - top : last - down - top] |= found
    return near


def _to_another(labels: np.ndarray, reach: int) -> np.ndarray:
    """How far it is from each pixel to one of another label in its row, to either side, (H, W).

    More than ``reach`` where it is farther.
    """
    kind = np.int16 if max(labels.shape) < 16_000 else np.int32
    far = np.iinfo(kind).max // 2
    place = np.arange(labels.shape[1], dtype=kind)
    begins = labels[:, 1:] != labels[:, :-1]  # runs, but for the first
    right = np.full(labels.shape, far, kind)
    np.copyto(right[:, :-1], place[1:], where=begins)
    np.minimum.accumulate(right[:, ::-1], 1, out=right[:, ::-1])
    left = np.full(labels.shape, -far, kind)
    np.copyto(left[:, 1:], place[1:], where=begins)
    np.maximum.accumulate(left, 1, out=left)
    distance = np.minimum(right - place, place + kind(1) - left)
    return np.minimum(distance, reach + 1).astype(np.uint8 if reach < 255 else np.uint16)


def _ious(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (K,); nan where it is neither there nor predicted."""
    right = np.diag(matrix)
    return _over(right, matrix.sum(0) + matrix.sum(1) - right)


def _where_known(matrix: np.ndarray) -> np.ndarray:
    """The same of a part of the pixels, (K,); nan where a class is not there at all."""
    return np.where(matrix.sum(1) > 0, _ious(matrix), np.nan)


def _shares(matrix: np.ndarray, axis: int) -> np.ndarray:
    return _over(np.diag(matrix), matrix.sum(axis))


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
