"""Predictions in COCO's format, with the ids of an annotation file where there is one."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitbackbones.data.masks import mask_area
from vitbackbones.data.values import listed

from .rows import Rows

#: Where the ``info`` of an annotation file of predictions says what is not in it.
LEFT_OUT = 'left_out'


@dataclass(frozen=True)
class AnnotationIds:
    """What an annotation file calls images and classes; empty where there is none.

    Attributes:
        images: id by the absolute path of the image's file, links resolved.
        categories: id by name.
    """

    images: Mapping[str, Any] = field(default_factory=dict)
    categories: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, folder: str = '') -> AnnotationIds:
        """Those of a file in COCO's format.

        Args:
            folder: where its images are; their names begin below it.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not in COCO's format.
        """
        # In any encoding of JSON, with a mark or without.
        return cls.of(json.loads(path.read_bytes()), folder)

    @classmethod
    def of(cls, content: Any, folder: str = '') -> AnnotationIds:
        """Those of what such a file holds.

        Raises:
            ValueError: it is not in COCO's format.
        """
        try:
            names = [(os.path.join(folder, row['file_name']), row) for row in content['images']]
            images = {os.path.realpath(name): row['id'] for name, row in names}
            categories: dict[str, Any] = {}
            used = {str(row.get('category_id')) for row in content.get('annotations') or ()}
            # Of two with one name, such as the root category of an export, the one that is used.
            for row in sorted(content['categories'], key=lambda row: str(row['id']) not in used):
                categories.setdefault(str(row['name']), row['id'])
        except (KeyError, TypeError) as error:
            raise ValueError(f'it is not in the format of COCO: {error!r}') from error
        return cls(images, categories)

    def names(self, path: Path) -> bool:
        """Whether the file has this image."""
        return os.path.realpath(path) in self.images

    def numbering(self) -> Callable[[Path], Any]:
        """A function that gives the id of an image, else a number that no image of the file has."""
        free = _free_numbers(self.images.values())

        def of_image(path: Path) -> Any:
            known = self.images.get(os.path.realpath(path))
            return next(free) if known is None else known

        return of_image

    def of_classes(self, names: Sequence[str]) -> list[Any]:
        """The category id of each class by its name, else a number that no category has."""
        free = _free_numbers(self.categories.values())
        known = [self.categories.get(name) for name in names]
        return [next(free) if value is None else value for value in known]


def image_ids(path: Path) -> list[Any]:
    """The id of each image of a file in COCO's format, in the file's order."""
    return [row['id'] for row in json.loads(path.read_bytes())['images']]


class Predictions:
    """The content of an annotation file of what was predicted; annotations wait on the disk.

    Args:
        folder: an existing one, where the file goes.
        category_ids: of every class, in the order of the model's labels.
        classes: their names.
        labels: of the classes that are listed; None for all.
        threshold: the least score of what is there; None for any.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: Sequence[Any],
        classes: Sequence[str],
        labels: Sequence[int] | None = None,
        threshold: float | None = None,
    ) -> None:
        self.category_ids = category_ids
        self.classes = classes
        self.labels = labels
        self.threshold = threshold
        self._images: list[dict[str, Any]] = []
        self._annotations = Rows(folder, b', ')
        self._count = 0

    def add(self, name: str, image_id: Any, sample: Any) -> None:
        """Take in mmdet's result of one image, on the CPU.

        Raises:
            OSError: there is no room on the disk; the image is not there then.
        """
        height, width = sample.ori_shape
        rows = results_of(sample.pred_instances, image_id, self.category_ids)
        # pycocotools takes 0 for none.
        for number, row in enumerate(rows, self._count + 1):
            _, _, w, h = row['bbox']
            area = mask_area(row['segmentation']) if 'segmentation' in row else w * h
            row.update(id=number, area=area, iscrowd=0)
        if rows:
            self._annotations.add(', '.join(map(json.dumps, rows)).encode())
        self._count += len(rows)
        self._images.append(dict(id=image_id, file_name=name, width=width, height=height))

    def write(self, path: Path) -> None:
        """Write it as JSON; what was left out is in its ``info``, see :func:`left_out_of`."""
        pairs = enumerate(zip(self.category_ids, self.classes, strict=True))
        categories = [
            dict(id=number, name=name)
            for label, (number, name) in pairs
            if self.labels is None or label in self.labels
        ]
        content: dict[str, Any] = {}
        left_out: dict[str, Any] = {}
        if self.threshold:
            left_out['scores_below'] = self.threshold
        if len(categories) < len(self.classes):
            kept = {row['name'] for row in categories}
            left_out['classes'] = [name for name in self.classes if name not in kept]
        if left_out:
            content['info'] = {LEFT_OUT: left_out}
        content.update(images=self._images, categories=categories)
        with path.open('wb') as file:
            file.write(json.dumps(content)[:-1].encode() + b', "annotations": [')
            self._annotations.copy_to(file)
            file.write(b']}')


def left_out_of(content: Mapping[str, Any]) -> str | None:
    """What was left out of such a file when it was written, in words; None for nothing."""
    info = content.get('info')
    left_out = info.get(LEFT_OUT) if isinstance(info, dict) else None
    if not isinstance(left_out, dict):
        return None
    score, classes = left_out.get('scores_below'), left_out.get('classes')
    parts = [] if score is None else [f'scores below {score} (--threshold)']
    parts += (
        [f'the classes {listed(map(str, classes))} (--classes)']
        if isinstance(classes, list)
        else []
    )
    return ' and '.join(parts) or None


def results_of(found: Any, image_id: Any, category_ids: Sequence[Any]) -> list[dict[str, Any]]:
    """Detections as in COCO's lists of results.

    Args:
        found: mmdet's instances of one image.
        category_ids: of every class, in the order of the model's labels.

    Returns:
        For each its ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels),
        ``score`` and, where there are masks, ``segmentation`` (compressed run lengths).
    """
    rows = []
    for j in range(len(found)):
        x1, y1, x2, y2 = found.bboxes[j].tolist()
        row = dict(
            image_id=image_id,
            category_id=category_ids[int(found.labels[j])],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=float(found.scores[j]),
        )
        if 'masks' in found:
            row['segmentation'] = run_lengths_of(found.masks[j])
        rows.append(row)
    return rows


def _free_numbers(used: Collection[Any]) -> Iterator[int]:
    taken = {str(value) for value in used}
    return (number for number in itertools.count() if str(number) not in taken)


def run_lengths_of(mask: Any) -> dict[str, Any]:
    """A mask, (H, W) or run lengths already, as JSON has run lengths."""
    if isinstance(mask, dict):
        return mask
    from pycocotools import mask as coco_mask  # comes with mmdet, which made the mask

    code = coco_mask.encode(np.asfortranarray(np.asarray(mask), dtype=np.uint8))
    return dict(size=code['size'], counts=code['counts'].decode())


def decoded(mask: Any) -> np.ndarray:
    """A mask, run lengths or not, as (H, W) bool."""
    if not isinstance(mask, dict):
        return np.asarray(mask, dtype=bool)
    from pycocotools import mask as coco_mask

    return coco_mask.decode(mask).astype(bool)
