"""Label maps of a test set in mmseg's format, and those that were predicted of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import METRICS, TRANSFORMS

from vitbackbones.data.configs import (
    class_names,
    dataset_class,
    datasets,
    image_folder,
    metrics_of,
    place,
    step_of,
)
from vitbackbones.data.counts import take
from vitbackbones.data.images import wrong_labels
from vitbackbones.data.label_maps import list_label_maps
from vitbackbones.data.loading import CheckedPipeline
from vitbackbones.data.nodes import base_names
from vitbackbones.data.steps import converts_labels
from vitbackbones.data.values import listed
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.label_maps import label_map_name, read_label_map

#: What mmseg has of an image -> its label map, (H, W), as a test compares with it.
Load = Callable[[Mapping[str, Any]], np.ndarray]


@dataclass(frozen=True)
class Row:
    """An image of a test set.

    Attributes:
        image: its file.
        labels: the file of its label map.
        prediction: where its label map is below the folder of predictions.
        load: reads the label map.
    """

    image: Path
    labels: str
    prediction: Path
    load: Callable[[], np.ndarray]

    @property
    def name(self) -> str:
        """The image below its folder."""
        return str(self.prediction.with_suffix(self.image.suffix))


@dataclass(frozen=True)
class LabelMapTest:
    """A test set in mmseg's format.

    Attributes:
        classes: names by label.
        palette: a colour for each, if the dataset says so.
        unlabelled: the label of pixels that have no class.
        ignore: the label of pixels that do not count.
        absent: what counts in means in the place of what is not known; None for nothing.
        rows: its images.
    """

    classes: Sequence[str]
    palette: Any
    unlabelled: int
    ignore: int
    absent: float | None
    rows: Sequence[Row]

    @property
    def names(self) -> list[str]:
        """The name of each image."""
        return [row.name for row in self.rows]

    def truth(self, row: Row) -> np.ndarray:
        """The label map of an image, (H, W).

        Raises:
            UserError: it cannot be read, or has labels beyond the classes.
        """
        try:
            labels = row.load()
        except (OSError, ValueError) as error:
            raise UserError(f'{row.labels} cannot be read: {error}') from error
        if labels.ndim != 2:
            raise UserError(f'{row.labels} is a coloured image, no label map')
        if ((labels >= len(self.classes)) & (labels != self.unlabelled)).any():
            wrong = wrong_labels(labels, len(self.classes), self.unlabelled)
            raise UserError(f'{row.labels}: {wrong}')
        return labels


def read_label_map_test(cfg: Config) -> LabelMapTest:
    """The test set of a config.

    Raises:
        UserError: it is not what the config says, or an image has no label map.
    """
    every = list(datasets(cfg, 'test'))
    first, unlabelled = every[0], every[0].get('ignore_index', 255)
    classes = class_names(cfg, first)
    if not classes:
        raise UserError(f'{place(first)}: the config does not say which classes there are')
    rows: list[Row] = []
    for dataset in every:
        cls, name = dataset_class(cfg, dataset), place(dataset)
        found = list_label_maps(cls, dataset, name)
        if found.findings:
            raise UserError(f'{found.findings[0]} ({found.findings[0].kind})')
        root = image_folder(dataset, 'img_path')
        load = _loader(cfg, dataset, len(classes), unlabelled)
        for i, row in enumerate(take(found.rows, dataset.get('indices'))):
            image, labels = row['img_path'], row.get('seg_map_path')
            if not labels:
                raise UserError(f'{name}: {image} has no label map to compare with')
            full = {**row, 'sample_idx': i, 'seg_fields': []}
            rows.append(Row(Path(image), labels, label_map_name(image, root), partial(load, full)))
    meta = {**getattr(dataset_class(cfg, first), 'METAINFO', {}), **(first.get('metainfo') or {})}
    measure = _measure(cfg)
    ignore = unlabelled if measure is None else measure.get('ignore_index', 255)
    absent = None if measure is None else measure.get('nan_to_num')
    return LabelMapTest(classes, meta.get('palette'), unlabelled, ignore, absent, rows)


def _measure(cfg: Config) -> Mapping[str, Any] | None:
    """The metric of a test that counts pixels as mmseg does; of several the first."""
    for metric, _ in metrics_of(cfg, 'test'):
        if 'IoUMetric' in base_names(metric, METRICS, cfg.get('default_scope')):
            return metric
    return None


def _loader(cfg: Config, dataset: Mapping[str, Any], classes: int, unlabelled: int) -> Load:
    """How the test pipeline of a dataset reads a label map.

    Its LoadAnnotations alone will do, unless a step of the user's makes other labels of it.
    """
    pipeline, scope = dataset.get('pipeline') or (), dataset.get('_scope_', cfg.default_scope)
    if converts_labels(pipeline, scope):
        steps = CheckedPipeline(pipeline, classes, unlabelled)
        return lambda row: steps(copy.deepcopy(row))['data_samples'].gt_sem_seg.data[0].numpy()
    step = TRANSFORMS.build(
        {**step_of(dataset, 'LoadAnnotations'), 'type': 'mmseg.LoadAnnotations'}
    )
    return lambda row: step(copy.deepcopy(row))['gt_seg_map']


def read_pairs(test: LabelMapTest, folder: Path) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """Each image, its truth (H, W) and its prediction (H, W).

    Raises:
        UserError: a prediction is missing, or is no label map of that image and these classes.
    """
    if not folder.is_dir():
        raise UserError(
            f'--predictions {folder} is no folder of label maps, as `test --dump` writes it'
        )
    silent = 0
    for row in test.rows:
        path, truth = folder / row.prediction, test.truth(row)
        found, names = load_prediction(path)
        silent += names is None
        if names is not None and names != list(test.classes):
            other = {*names} != {*test.classes}
            raise UserError(
                f'{path} has the classes {"" if other else "in the order "}{listed(names)}, the '
                f'test set {listed(test.classes)}: '
                + ('give' if other else 'write metainfo.classes in that order, or give')
                + ' the config that it was predicted with'
            )
        if truth.shape != found.shape:
            raise UserError(
                f'{path} is of another dataset: it has {found.shape[1]} x {found.shape[0]} pixels, '
                f'the label map {row.labels} {truth.shape[1]} x {truth.shape[0]}'
            )
        if found.size and found.max() >= len(test.classes):
            raise UserError(
                f'{path} predicts class {found.max()}, those of the config are 0 to '
                f'{len(test.classes) - 1}: give the config that it was predicted with'
            )
        yield row, truth, found
    if silent:
        order = listed(f'{label} {name}' for label, name in enumerate(test.classes))
        notice(
            f'{silent} of {len(test.rows)} label maps in {folder} do not say which classes they '
            f'have: their labels are taken for those of the config, {order}'
        )


def load_prediction(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """A label map that was predicted, (H, W), and the names of its classes, if it has them.

    Raises:
        UserError: it is not there or cannot be read.
    """
    try:
        return read_label_map(path)
    except FileNotFoundError as error:
        raise UserError(
            f'{path} is not there: the predictions are of another dataset, or not of all images'
        ) from error
    except ValueError as error:
        raise UserError(f'{path} {error}') from error
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error}') from error
