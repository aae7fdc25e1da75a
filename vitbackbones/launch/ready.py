"""Annotation files made ready: copies of those that mmdet would read wrongly or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS

from vitbackbones.data.annotations import Coco, Contents, read_coco, read_contents
from vitbackbones.data.configs import (
    as_list,
    class_names,
    dataset_class,
    datasets,
    format_of,
    metrics_of,
    place,
    wants_masks,
)
from vitbackbones.data.fixing import VERSION
from vitbackbones.data.loading import in_file_order
from vitbackbones.data.nodes import base_names
from vitbackbones.errors import UserError, notice

FOLDER = 'annotations'  # of the work directory


def make_annotations_ready(cfg: Config, splits: Sequence[str]) -> None:
    """Let datasets and evaluators read copies of annotation files that are not as mmdet wants them.

    The copies are in the work directory, and the user's files stay as they are; where nothing has
    to be put right, nothing is copied.

    Args:
        cfg: the config that is built; changed in place.
        splits: those of 'train', 'val', 'test' that are about to be used.

    Raises:
        UserError: an evaluator's file is wrong, or a copy cannot be written.
    """
    copies = _Copies(Path(cfg.get('work_dir') or '.', FOLDER))
    for split in splits:
        for dataset in datasets(cfg, split):
            copy = copies.instead_of(_by_dataset(cfg, split, dataset))
            if copy:
                cast(ConfigDict, dataset).ann_file = copy
        for metric, measured in metrics_of(cfg, split):
            copy = copies.instead_of(_by_metric(cfg, metric, measured))
            if copy:
                metric['ann_file'] = copy


class Reading(NamedTuple):
    """An annotation file and what it is read for, see :func:`~.data.annotations.read_coco`."""

    file: str
    classes: Sequence[str] | None
    masks: bool
    test: bool
    ordered: bool
    by_class: bool

    def checked(self) -> Coco:
        """What is wrong with it, all of which can be put right.

        Raises:
            UserError: it cannot be read, or is wrong in another way.
        """
        found = read_coco(Path(self.file), self.classes, **self._how())
        for finding in found.findings:
            if finding.error:
                raise UserError(f'{finding} ({finding.kind})')
        return found

    def contents(self) -> Contents:
        """What it holds, and what is made of that.

        Raises:
            ValueError: it cannot be read.
        """
        return read_contents(Path(self.file), self.classes, **self._how())

    def _how(self) -> dict[str, bool]:
        return dict(masks=self.masks, test=self.test, ordered=self.ordered, by_class=self.by_class)


def reading_of_truths(cfg: Config, split: str, dataset: Mapping[str, Any]) -> Reading:
    """The file that results of a dataset in COCO's format are compared with, as a test reads it."""
    for metric, measured in metrics_of(cfg, split):
        reading = _by_metric(cfg, metric, measured) if dataset in measured else None
        if reading is not None:
            return reading
    reading = _by_dataset(cfg, split, dataset)
    assert reading is not None
    return reading._replace(test=True)


def _by_dataset(cfg: Config, split: str, dataset: Mapping[str, Any]) -> Reading | None:
    """How a dataset reads its file; None of one in another format."""
    if format_of(cfg, dataset) != 'coco':
        return None
    test = bool(dataset.get('test_mode'))
    return Reading(
        place(dataset),
        class_names(cfg, dataset),
        masks=wants_masks(cfg, split, dataset),
        test=test,
        ordered=in_file_order(dataset_class(cfg, dataset)),
        by_class=test and any(_is_by_class(metric) for metric, _ in metrics_of(cfg, split)),
    )


def _by_metric(
    cfg: Config, metric: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]
) -> Reading | None:
    """How a metric reads the file that it compares with; None where it has none of COCO's."""
    names = next(filter(None, _classes(cfg, measured)), None)
    if not names or not metric.get('ann_file') or not _is_coco_metric(cfg, metric):
        return None
    return Reading(
        metric['ann_file'],
        names,
        masks='segm' in as_list(metric.get('metric')),
        test=True,
        ordered=not metric.get('sort_categories'),
        by_class=_is_by_class(metric),
    )


def _classes(cfg: Config, measured: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str] | None]:
    for dataset in measured:
        if format_of(cfg, dataset) == 'coco':
            yield class_names(cfg, dataset)


def _is_coco_metric(cfg: Config, metric: Mapping[str, Any]) -> bool:
    """Whether it maps labels to the categories of its file as mmdet's CocoMetric does."""
    names = base_names(metric, METRICS, cfg.get('default_scope'))
    return 'CocoMetric' in names and 'LVISMetric' not in names


def _is_by_class(metric: Mapping[str, Any]) -> bool:
    """Whether it lists results class by class, and writes none with ids that others read."""
    writes = metric.get('format_only') or metric.get('outfile_prefix')
    return bool(metric.get('classwise')) and not writes


class _Copies:
    """The copies of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: set[Path] = set()

    def instead_of(self, reading: Reading | None) -> str | None:
        """The copy that is to be read in the place of a file, None where the file itself will do.

        Raises:
            UserError: the file is wrong in a way that cannot be put right, or the disk is full.
        """
        if reading is None:
            return None
        path = Path(reading.file)
        if '://' in reading.file or not path.is_file():  # is somebody else's to say
            return None
        found = reading.checked()
        if not found.fixed:
            return None
        # Of copies that are to be used differently and come out the same there is one.
        classes = reading.classes and tuple(reading.classes)
        used = (classes, reading.masks, reading.test, reading.ordered)
        options = repr((*used, found.fixed, VERSION))
        digest = hashlib.sha256(path.read_bytes() + options.encode()).hexdigest()
        copy = self.folder / f'{path.stem}-{digest[:12]}.json'
        try:
            if not copy.exists():
                _write(copy, json.dumps(reading.contents().fixed).encode())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f'{copy}, a copy of {path}, cannot be written: {reason}') from error
        if copy not in self.said:
            self.said.add(copy)
            reasons = '; '.join(finding.detail for finding in found.fixed)
            notice(f'{path}: {reasons}: {copy}, a copy where this is put right, is read instead')
        return str(copy.absolute())


def _write(path: Path, data: bytes) -> None:
    """Write a file that other processes may be writing, too, and with the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix='.part')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # mkstemp lets nobody else read it
        os.replace(part, path)
    except BaseException:  # whatever ends it leaves no part behind
        Path(part).unlink(missing_ok=True)
        raise
