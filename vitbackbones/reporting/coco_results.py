"""Predictions in COCO's format of a test set, as plain arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitbackbones.data.masks import mask_area
from vitbackbones.data.values import is_number, listed
from vitbackbones.errors import UserError
from vitbackbones.inference.coco import left_out_of

from .coco_source import CocoTest, compressed, have_masks, key
from .objects import Objects, objects


def read_predictions(path: Path, test: CocoTest) -> Objects:
    """What `test --dump` or `infer` has written of a test set.

    Raises:
        UserError: it cannot be read, or it is of other images or classes.
    """
    rows = _rows(path, test)
    images = test.positions
    places = [images.get(key(row['image_id'])) for row in rows]
    strange = [row for row, place in zip(rows, places, strict=True) if place is None]
    if strange:
        raise UserError(
            f'{path} is of another dataset: {len(strange)} of its {len(rows)} predictions are of '
            f'images that {test.file} does not have, such as {strange[0]["image_id"]!r}'
        )
    labels = [test.categories.get(key(row['category_id'])) for row in rows]
    strange = [row for row, label in zip(rows, labels, strict=True) if label is None]
    if strange:
        raise UserError(
            f'{path} is of another dataset: {len(strange)} of its {len(rows)} predictions are of '
            f'categories that are no classes of the config in {test.file}, such as '
            f'{strange[0]["category_id"]!r}; the classes are {listed(test.classes)}'
        )
    where = np.array(places, np.int64)
    boxes = np.array([row['bbox'] for row in rows], float).reshape(-1, 4)
    sizes = np.array([(row['width'], row['height']) for row in test.images], float).reshape(-1, 2)
    beyond = (boxes[:, :2] > sizes[where] + 1).any(1)
    if beyond.any():
        row = rows[int(beyond.argmax())]
        raise UserError(
            f'{path} is of another dataset: {int(beyond.sum())} of its {len(rows)} predictions lie '
            f'outside of their images in {test.file}, such as {row["bbox"]} in image '
            f'{row["image_id"]!r}'
        )
    masks = _masks(path, test, rows, where)
    return objects(
        where,
        np.array(labels, np.int64),
        boxes,
        score=[row['score'] for row in rows],
        area=None if masks is None else [mask_area(mask) for mask in masks],
        mask=masks,
    )


def _masks(
    path: Path, test: CocoTest, rows: Sequence[Mapping[str, Any]], where: np.ndarray
) -> list[Any] | None:
    """The masks of all predictions; None where they or the truths have none.

    Where nothing is predicted, what the test measures tells.
    """
    having = sum(bool(row.get('segmentation')) for row in rows)
    if not (having if rows else test.masks) or not have_masks(test):
        return None
    if having < len(rows):
        raise UserError(
            f'{path} has masks of {having} of its {len(rows)} predictions: all of them are needed, '
            'or none'
        )
    return [
        compressed(row['segmentation'], test.images[i], f'{path}: prediction number {number}')
        for number, (row, i) in enumerate(zip(rows, where, strict=True))
    ]


def _rows(path: Path, test: CocoTest) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'--predictions {path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'--predictions {path} is no JSON: {error}') from error
    if isinstance(content, dict):  # of `infer`, which says what images and classes it is of
        left_out = left_out_of(content)
        if left_out is not None:
            raise UserError(
                f'{path} is not all that was predicted: `infer` has left out {left_out}, and AP '
                'would be too low; predict once more without that'
            )
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
    listed_rows = {field: content.get(field) or [] for field in ('categories', 'images')}
    for field, rows in listed_rows.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f'--predictions {path}: {field} are no list of objects')
    theirs = [str(row.get('name')) for row in listed_rows['categories']]
    if theirs and {*theirs} != {*test.classes}:
        raise UserError(
            f'{path} predicts the classes {listed(theirs)}, those of the config are '
            f'{listed(test.classes)}: give the config that it was predicted with'
        )
    for row in listed_rows['categories']:
        place = test.categories.get(key(row.get('id')))
        if place is None or test.classes[place] != row.get('name'):
            known = 'no class' if place is None else test.classes[place]
            raise UserError(
                f'{path} has other ids of categories: {row.get("id")!r} is {row.get("name")} there '
                f'and {known} in {test.file}'
            )
    ours = dict(zip(map(key, test.image_ids), map(os.path.basename, test.names), strict=True))
    for row in listed_rows['images']:
        name = os.path.basename(str(row.get('file_name')))
        if ours.get(key(row.get('id')), name) != name:
            raise UserError(
                f'{path} is of another dataset: image {row["id"]} is {name} there and '
                f'{ours[key(row["id"])]} in {test.file}'
            )
    if 0 < len(listed_rows['images']) < len(test.images):
        raise UserError(
            f'{path} is of {len(listed_rows["images"])} of the {len(test.images)} images of '
            f'{test.file}: the others would count as missed'
        )
