"""Predictions in COCO's format, with the ids of an annotation file where there is one."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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
        content = json.loads(path.read_bytes())  # in any encoding of JSON, with a mark or without
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

    def of_images(self, paths: Sequence[Path]) -> list[Any]:
        """The id of each image, else a number that no image of the file has."""
        free = _free_numbers(self.images.values())
        known = [self.images.get(os.path.realpath(path)) for path in paths]
        return [next(free) if value is None else value for value in known]

    def of_classes(self, names: Sequence[str]) -> list[Any]:
        """The category id of each class by its name, else a number that no category has."""
        free = _free_numbers(self.categories.values())
        known = [self.categories.get(name) for name in names]
        return [next(free) if value is None else value for value in known]


def image_ids(path: Path) -> list[Any]:
    """The id of each image of a file in COCO's format, in the file's order."""
    return [row['id'] for row in json.loads(path.read_bytes())['images']]


@dataclass
class Predictions:
    """The content of an annotation file of what was predicted.

    Attributes:
        category_ids: of every class, in the order of the model's labels.
        classes: their names.
    """

    category_ids: Sequence[Any]
    classes: Sequence[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, image_id: Any, sample: Any) -> None:
        """Take in mmdet's result of one image, on the CPU."""
        height, width = sample.ori_shape
        rows = results_of(sample.pred_instances, image_id, self.category_ids)
        self.images.append(dict(id=image_id, file_name=name, width=width, height=height))
        first = len(self.annotations)
        self.annotations += [dict(id=first + j, **row) for j, row in enumerate(rows)]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        pairs = zip(self.category_ids, self.classes, strict=True)
        categories = [dict(id=number, name=name) for number, name in pairs]
        content = dict(images=self.images, categories=categories, annotations=self.annotations)
        path.write_text(json.dumps(content))


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
            row['segmentation'] = _rle(found.masks[j].numpy())
        rows.append(row)
    return rows


def _free_numbers(used: Collection[Any]) -> Iterator[int]:
    taken = {str(value) for value in used}
    return (number for number in itertools.count() if str(number) not in taken)


def _rle(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask  # comes with mmdet, which made the mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=code['size'], counts=code['counts'].decode())
