"""Predictions as a folder in YOLO's format, which can be corrected and learnt from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitbackbones.errors import UserError
from vitbackbones.formats.yolo_writing import box_line, describe, label_file, mask_line

from .coco import decoded
from .request import Kept
from .results import IMAGES, Result, Results


class YoloFolder(Results):
    """labels/NAME.txt for images/NAME, which is a link to the image, and what describes them.

    Args:
        score: the least of an object.
    """

    def __init__(self, out: Path, kept: Kept, score: float) -> None:
        super().__init__(out, kept)
        self.score = score
        self.described = False
        self.numbers = {label: number for number, label in enumerate(kept.labels)}

    def check(self) -> None:
        labels = self.out / 'labels'
        taken = [labels] if labels.is_file() or (labels.is_dir() and any(labels.iterdir())) else []
        taken += [self.out / name for name in ('data.yaml', 'classes.txt')]
        for path in taken:
            if path.exists():
                raise UserError(
                    f'--format yolo: {path} is there already, and may have been corrected: '
                    'choose another --out-dir, or remove it'
                )

    def add(self, result: Result) -> None:
        image = self.out / IMAGES / result.name
        image.parent.mkdir(parents=True, exist_ok=True)
        if not (image.exists() and image.samefile(result.path)):  # it may be the image itself
            if image.is_symlink():
                image.unlink()
            image.symlink_to(os.path.abspath(result.path))
        if not self.described:
            describe(self.out, self.kept.names)
            self.described = True
        target = label_file(image)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(''.join(self._lines(result.sample)), encoding='utf-8')

    def _lines(self, sample: Any) -> Iterator[str]:
        height, width = sample.ori_shape[:2]
        found = sample.pred_instances
        for j in np.flatnonzero(found.scores.numpy() >= self.score).tolist():
            label = self.numbers[int(found.labels[j])]
            if 'masks' in found:
                line = mask_line(label, decoded(found.masks[j]))
                if line is not None:
                    yield line
            else:
                yield box_line(label, found.bboxes[j].tolist(), (width, height))
