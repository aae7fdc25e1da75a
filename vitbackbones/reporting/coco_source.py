"""Truths of a test set in COCO's format, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from vitbackbones.data.configs import datasets, image_folder, place
from vitbackbones.data.masks import mask_problem
from vitbackbones.errors import UserError
from vitbackbones.inference.coco import AnnotationIds
from vitbackbones.launch.ready import reading_of_truths

from .objects import Objects, objects


@dataclass(frozen=True)
class CocoTest:
    """A test set in COCO's format.

    Attributes:
        file: its annotation file.
        folder: where its images are.
        classes: names by label.
        images: rows of the file, put right, in the order of their ids.
        image_ids: what the file itself calls each of them.
        rows: annotations of these classes, put right.
        labels: label by the id of a category, put right.
        categories: label by what predictions call a category, as text.
        masks: whether the test measures masks.
        mended: what was put right, in words.
    """

    file: Path
    folder: str
    classes: Sequence[str]
    images: Sequence[Mapping[str, Any]]
    image_ids: Sequence[Any]
    rows: Sequence[Mapping[str, Any]]
    labels: Mapping[Any, int]
    categories: Mapping[str, int]
    masks: bool
    mended: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The file name of each image."""
        return [str(row['file_name']) for row in self.images]

    @property
    def positions(self) -> dict[str, int]:
        """The position of an image by what the file calls it, as text."""
        return {key(number): i for i, number in enumerate(self.image_ids)}

    def path(self, image: int) -> Path:
        """The file of the image at a position."""
        return Path(self.folder, self.names[image])


def key(number: Any) -> str:
    """An id as text, by which it is looked up: JSON may write 1 as 1.0."""
    return str(int(number) if isinstance(number, float) and number.is_integer() else number)


def read_test_set(cfg: Config) -> CocoTest:
    """The test set of a config, with the truths that a test compares with.

    Raises:
        UserError: it joins several, or its file is wrong.
    """
    every = list(datasets(cfg, 'test'))
    if len(every) != 1:
        raise UserError(
            f'a report is of one annotation file, the test set of the config joins {len(every)}'
        )
    (dataset,) = every
    reading = reading_of_truths(cfg, 'test', dataset)
    mended = [finding.detail for finding in reading.checked().fixed]
    fixed, raw = reading.contents()
    classes = reading.classes or list(dict.fromkeys(row['name'] for row in fixed['categories']))
    places = {name: label for label, name in enumerate(classes)}
    labels = {
        row['id']: places[row['name']] for row in fixed['categories'] if row['name'] in places
    }
    images = sorted(
        zip(fixed['images'], (row['id'] for row in raw['images']), strict=True),
        key=lambda pair: pair[0]['id'],  # as pycocotools has them
    )
    path, predicted = Path(reading.file), Path(place(dataset))
    try:  # predictions have the ids of the file that names the images
        ids = AnnotationIds.of(raw) if path == predicted else AnnotationIds.read(predicted)
    except (OSError, ValueError) as error:
        raise UserError(f'{predicted} cannot be read: {error}') from error
    return CocoTest(
        file=path,
        folder=image_folder(dataset, 'img'),
        classes=classes,
        images=[row for row, _ in images],
        image_ids=[number for _, number in images],
        rows=[row for row in fixed['annotations'] if row['category_id'] in labels],
        labels=labels,
        categories={key(number): i for i, number in enumerate(ids.of_classes(classes))},
        masks=reading.masks,
        mended=mended,
    )


def truths_of(test: CocoTest, *, masks: bool) -> Objects:
    """The objects of a test set.

    Args:
        masks: whether masks are measured; only where all objects have one.

    Raises:
        UserError: a mask cannot be read.
    """
    places = {key(row['id']): i for i, row in enumerate(test.images)}
    rows = [row for row in test.rows if key(row['image_id']) in places]
    where = [places[key(row['image_id'])] for row in rows]
    return objects(
        where,
        [test.labels[row['category_id']] for row in rows],
        [row['bbox'] for row in rows],
        area=[row['area'] for row in rows],
        crowd=[bool(row['iscrowd']) for row in rows],
        mask=[
            compressed(row['segmentation'], test.images[i], f'{test.file}: annotation {row["id"]}')
            for row, i in zip(rows, where, strict=True)
        ]
        if masks
        else None,
    )


def have_masks(test: CocoTest) -> bool:
    """Whether all objects of a test set have masks."""
    return bool(test.rows) and all(row.get('segmentation') for row in test.rows)


def compressed(mask: Any, image: Mapping[str, Any], whose: str) -> Any:
    """A mask, polygons or run lengths, as pycocotools compresses it.

    Args:
        image: its row of the annotation file.

    Raises:
        UserError: it is none of this image; the sentence begins with ``whose``.
    """
    from pycocotools import mask as coco_mask

    problem = mask_problem(mask, image)
    if problem is not None and problem[0] != 'mask without area':
        raise UserError(f'{whose} has a segmentation that is no mask of its image: {problem[1]}')
    size = (int(image['height']), int(image['width']))
    if isinstance(mask, dict) and isinstance(mask['counts'], str):
        return mask
    if isinstance(mask, dict):
        packed = coco_mask.frPyObjects(mask, *size)
    elif parts := [part for part in mask if len(part) >= 6]:  # pycocotools takes four for a box
        packed = coco_mask.merge(coco_mask.frPyObjects(parts, *size))
    else:
        packed = coco_mask.encode(np.zeros(size, np.uint8, order='F'))
    return dict(size=packed['size'], counts=packed['counts'].decode())
