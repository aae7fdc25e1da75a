"""Label maps of a test set in mmseg's format, and those that were predicted of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image

from vitbackbones.data.configs import class_names, dataset_class, datasets, image_folder, place
from vitbackbones.data.label_maps import list_label_maps
from vitbackbones.errors import UserError
from vitbackbones.inference.dump import label_map_name


@dataclass(frozen=True)
class LabelMapTest:
    """A test set in mmseg's format.

    Attributes:
        classes: names by label.
        palette: a colour for each, if the dataset says so.
        ignore: the label of pixels that do not count.
        rows: what mmseg has of each image, and the name of its label map among predictions.
    """

    classes: Sequence[str]
    palette: Any
    ignore: int
    rows: Sequence[tuple[dict[str, Any], Path]]


def read_label_map_test(cfg: Config) -> LabelMapTest:
    """The test set of a config.

    Raises:
        UserError: it is not what the config says, or an image has no label map.
    """
    rows: list[tuple[dict[str, Any], Path]] = []
    every = list(datasets(cfg, 'test'))
    for dataset in every:
        cls, name = dataset_class(cfg, dataset), place(dataset)
        listed = list_label_maps(cls, dataset, name)
        if listed.findings:
            raise UserError(f'{listed.findings[0]} ({listed.findings[0].kind})')
        root = image_folder(dataset, 'img_path')
        for row in listed.rows:
            if not row.get('seg_map_path'):
                raise UserError(f'{name}: {row["img_path"]} has no label map to compare with')
            rows.append((row, label_map_name(row['img_path'], root)))
    first = every[0]
    classes = class_names(cfg, first)
    if not classes:
        raise UserError(f'{place(first)}: the config does not say which classes there are')
    meta = {**getattr(dataset_class(cfg, first), 'METAINFO', {}), **(first.get('metainfo') or {})}
    return LabelMapTest(classes, meta.get('palette'), first.get('ignore_index', 255), rows)


def read_pairs(test: LabelMapTest, folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each image its name below the folder, the truth (H, W) and the prediction (H, W).

    Raises:
        UserError: a prediction is missing, or is no label map of that image and these classes.
    """
    if not folder.is_dir():
        raise UserError(
            f'--predictions {folder} is no folder of label maps, as `test --dump` writes it'
        )
    for row, name in test.rows:
        truth, found = load_truth(row), load_prediction(folder / name)
        if truth.shape != found.shape:
            raise UserError(
                f'{folder / name} is of another dataset: it has {found.shape[1]} x '
                f'{found.shape[0]} pixels, the label map {row["seg_map_path"]} '
                f'{truth.shape[1]} x {truth.shape[0]}'
            )
        if found.size and found.max() >= len(test.classes):
            raise UserError(
                f'{folder / name} predicts class {found.max()}, those of the config are 0 to '
                f'{len(test.classes) - 1}: give the config that it was predicted with'
            )
        yield str(name.with_suffix(Path(row['img_path']).suffix)), truth, found


def load_truth(row: dict[str, Any]) -> np.ndarray:
    """The label map of an image as mmseg reads it, (H, W).

    Args:
        row: what mmseg's dataset has of the image.

    Raises:
        UserError: it cannot be read.
    """
    load = TRANSFORMS.build(dict(type='mmseg.LoadAnnotations'))
    try:
        return load({**row, 'seg_fields': []})['gt_seg_map']
    except (OSError, ValueError) as error:
        raise UserError(f'{row["seg_map_path"]} cannot be read: {error}') from error


def load_prediction(path: Path) -> np.ndarray:
    """A label map that was predicted, (H, W).

    Raises:
        UserError: it is not there or cannot be read.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except FileNotFoundError as error:
        raise UserError(
            f'{path} is not there: the predictions are of another dataset, or not of all images'
        ) from error
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if labels.ndim != 2:
        raise UserError(f'{path} is a coloured image, no label map with indices of classes')
    return labels
