"""Truths of a test set in COCO's format, and predictions in its format, as plain arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from vitbackbones.data.configs import class_names, datasets, image_folder, place
from vitbackbones.data.masks import mask_area
from vitbackbones.data.values import is_number, listed
from vitbackbones.errors import UserError

from .objects import Objects, objects


@dataclass(frozen=True)
class CocoTest:
    """A test set in COCO's format.

    Attributes:
        file: its annotation file.
        folder: where its images are.
        classes: names by label.
        images: rows of the file in the order of their ids.
        rows: annotations of these classes.
        categories: label by the id of a category, as text.
    """

    file: Path
    folder: str
    classes: Sequence[str]
    images: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    categories: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """The file name of each image."""
        return [str(row['file_name']) for row in self.images]

    @property
    def positions(self) -> dict[str, int]:
        """The position of an image by its id, as text."""
        return {str(row['id']): i for i, row in enumerate(self.images)}

    def path(self, image: int) -> Path:
        """The file of the image at a position."""
        return Path(self.folder, self.names[image])


def read_test_set(cfg: Config) -> CocoTest:
    """The test set of a config, whose annotations were checked.

    Raises:
        UserError: it joins several, or its file cannot be read.
    """
    every = list(datasets(cfg, 'test'))
    if len(every) != 1:
        raise UserError(
            f'a report is of one annotation file, the test set of the config joins {len(every)}'
        )
    (dataset,) = every
    path = Path(place(dataset))
    try:
        content = json.loads(path.read_bytes())
        images = sorted(content['images'], key=lambda row: _rank(row['id']))
        categories = [(row['id'], str(row['name'])) for row in content['categories']]
        rows = content.get('annotations') or []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} cannot be read as annotations of COCO: {error!r}') from error
    classes = class_names(cfg, dataset) or list(dict.fromkeys(name for _, name in categories))
    labels = {name: label for label, name in enumerate(classes)}
    known = {str(number): labels[name] for number, name in categories if name in labels}
    kept = [row for row in rows if str(row.get('category_id')) in known and row.get('bbox')]
    return CocoTest(path, image_folder(dataset, 'img'), classes, images, kept, known)


def _rank(number: Any) -> tuple[bool, Any]:
    """Ids in the order in which pycocotools has them: numbers, then words."""
    return isinstance(number, str), number


def truths_of(test: CocoTest, *, masks: bool) -> Objects:
    """The objects of a test set.

    Args:
        masks: whether masks are measured; only where all objects have one.
    """
    places = test.positions
    rows = [row for row in test.rows if str(row.get('image_id')) in places]
    where = [places[str(row['image_id'])] for row in rows]
    return objects(
        where,
        [test.categories[str(row['category_id'])] for row in rows],
        [row['bbox'] for row in rows],
        area=[_area(row) for row in rows],
        crowd=[int(row.get('iscrowd') or 0) == 1 for row in rows],
        mask=[_run_lengths(row, test.images[i]) for row, i in zip(rows, where, strict=True)]
        if masks
        else None,
    )


def have_masks(test: CocoTest) -> bool:
    """Whether all objects of a test set have masks."""
    return bool(test.rows) and all(row.get('segmentation') for row in test.rows)


def _area(row: Mapping[str, Any]) -> float:
    if is_number(row.get('area')):
        return float(row['area'])
    return mask_area(row.get('segmentation')) or float(row['bbox'][2]) * float(row['bbox'][3])


def _run_lengths(row: Mapping[str, Any], image: Mapping[str, Any]) -> Any:
    """A truth's mask, polygons or run lengths, as pycocotools compresses it."""
    from pycocotools import mask as coco_mask

    mask, size = row['segmentation'], (image['height'], image['width'])
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, *size))
    return coco_mask.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask


def read_predictions(path: Path, test: CocoTest) -> Objects:
    """What `test --dump` or `infer` has written of a test set.

    Raises:
        UserError: it cannot be read, or it is of other images or classes.
    """
    rows = _rows(path, test)
    places, sizes = test.positions, _sizes(test)
    strange = [row for row in rows if str(row['image_id']) not in places]
    if strange:
        raise UserError(
            f'{path} is of another dataset: {len(strange)} of its {len(rows)} predictions are of '
            f'images that {test.file} does not have, such as {strange[0]["image_id"]!r}'
        )
    strange = [row for row in rows if str(row['category_id']) not in test.categories]
    if strange:
        raise UserError(
            f'{path} is of another dataset: {len(strange)} of its {len(rows)} predictions are of '
            f'categories that are no classes of the config in {test.file}, such as '
            f'{strange[0]["category_id"]!r}; the classes are {listed(test.classes)}'
        )
    where = np.array([places[str(row['image_id'])] for row in rows], np.int64)
    boxes = np.array([row['bbox'] for row in rows], float).reshape(-1, 4)
    beyond = (boxes[:, :2] > sizes[where] + 1).any(1)
    if beyond.any():
        row = rows[int(beyond.argmax())]
        raise UserError(
            f'{path} is of another dataset: {int(beyond.sum())} of its {len(rows)} predictions lie '
            f'outside of their images in {test.file}, such as {row["bbox"]} in image '
            f'{row["image_id"]!r}'
        )
    having = sum(bool(row.get('segmentation')) for row in rows)
    if 0 < having < len(rows) and have_masks(test):
        raise UserError(
            f'{path} has masks of {having} of its {len(rows)} predictions: all of them are needed, '
            'or none'
        )
    masks = bool(rows) and have_masks(test) and having == len(rows)
    return objects(
        where,
        [test.categories[str(row['category_id'])] for row in rows],
        boxes,
        score=[row['score'] for row in rows],
        area=[mask_area(row['segmentation']) for row in rows] if masks else None,
        mask=[row['segmentation'] for row in rows] if masks else None,
    )


def _sizes(test: CocoTest) -> np.ndarray:
    """Width and height of each image, (N, 2); endless where the file does not say."""
    sides = [[row.get('width'), row.get('height')] for row in test.images]
    known = [[side if is_number(side) else np.inf for side in pair] for pair in sides]
    return np.array(known, float).reshape(-1, 2)


def _rows(path: Path, test: CocoTest) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'--predictions {path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'--predictions {path} is no JSON: {error}') from error
    if isinstance(content, dict):  # of `infer`, which says what images and classes it is of
        _check_names(path, content, test)
        content = content.get('annotations')
    if not isinstance(content, list):
        raise UserError(
            f"--predictions {path} holds no predictions: a list of COCO's results is expected, as "
            '`test --dump` writes it'
        )
    for number, row in enumerate(content):
        if not _is_prediction(row):
            raise UserError(
                f'--predictions {path}: number {number} is no prediction with image_id, '
                f'category_id, bbox and score: {row!r:.80}'
            )
    return content


def _is_prediction(row: Any) -> bool:
    if not isinstance(row, dict) or 'image_id' not in row or 'category_id' not in row:
        return False
    box = row.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return False
    return min(box[2:]) >= 0 and is_number(row.get('score'))


def _check_names(path: Path, content: Mapping[str, Any], test: CocoTest) -> None:
    """Images and classes of a file that names them must be those of the test set."""
    listed_rows = {key: content.get(key) or [] for key in ('categories', 'images')}
    for key, rows in listed_rows.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'--predictions {path}: {key} are no list of objects')
    theirs = [str(row.get('name')) for row in listed_rows['categories']]
    if theirs and {*theirs} != {*test.classes}:
        raise UserError(
            f'{path} predicts the classes {listed(theirs)}, those of the config are '
            f'{listed(test.classes)}: give the config that it was predicted with'
        )
    for row in listed_rows['categories']:
        place = test.categories.get(str(row.get('id')))
        if place is None or test.classes[place] != row.get('name'):
            known = 'no class' if place is None else test.classes[place]
            raise UserError(
                f'{path} has other ids of categories: {row.get("id")!r} is {row.get("name")} there '
                f'and {known} in {test.file}'
            )
    ours = {str(row['id']): os.path.basename(str(row['file_name'])) for row in test.images}
    for row in listed_rows['images']:
        name = os.path.basename(str(row.get('file_name')))
        if ours.get(str(row.get('id')), name) != name:
            raise UserError(
                f'{path} is of another dataset: image {row["id"]} is {name} there and '
                f'{ours[str(row["id"])]} in {test.file}'
            )
    if 0 < len(listed_rows['images']) < len(test.images):
        raise UserError(
            f'{path} is of {len(listed_rows["images"])} of the {len(test.images)} images of '
            f'{test.file}: the others would count as missed'
        )
