"""The datasets of a config, with all that can be listed: images, faults and counts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from vitbackbones.errors import notice

from . import verdicts
from .annotations import Coco
from .configs import (
    class_names,
    dataset_class,
    datasets,
    format_of,
    image_folder,
    place,
    problem_of_folders,
    read_annotations,
    step_of,
)
from .counts import ImageCounts, ObjectCounts, PixelCounts, count_objects, take
from .findings import Finding
from .folders import list_folders
from .label_maps import list_label_maps
from .steps import converts_labels


@dataclass
class ImageFile:
    """An image to look at.

    Attributes:
        size: width and height by the annotations.
        labels: what mmseg's LoadAnnotations needs of its label map.
    """

    path: str
    size: tuple[int, int] | None = None
    labels: dict[str, Any] | None = None


@dataclass
class Source:
    """A dataset, as far as its files can be listed.

    Attributes:
        name: its annotation file or folder.
        classes: names, None where the dataset has none.
        backend: what decodes its images.
        label_backend: what decodes its label maps, None if nothing of mmseg's does.
        converted: whether its pipeline may make other labels of them.
        splits: those of 'train', 'val' and 'test' that it is of.
        annotations: their number; None for label maps and folders.
        findings: what is wrong with its annotations, or with its folders.
        counts: what there is to learn; of label maps once they have been read.
    """

    name: str
    classes: Sequence[str] | None
    ignore: int
    backend: str
    label_backend: str | None = None
    converted: bool = False
    splits: list[str] = field(default_factory=list)
    images: list[ImageFile] = field(default_factory=list)
    annotations: int | None = None
    findings: list[Finding] = field(default_factory=list)
    counts: ObjectCounts | PixelCounts | ImageCounts | None = None

    def is_like(self, other: Source) -> bool:
        """Whether the other one, of another split, would be counted as this one."""
        if (self.name, self.classes, self.ignore) != (other.name, other.classes, other.ignore):
            return False
        if self.annotations is not None or other.annotations is not None:
            return self.counts == other.counts
        if isinstance(self.counts, ImageCounts) and self.counts != other.counts:
            return False
        return (self.images, self.converted) == (other.images, other.converted)


def sources(cfg: Config, split: str, *, aloud: bool = True) -> Iterator[Source]:
    """Those of a split that are COCO's annotations, folders of label maps or of classes.

    Args:
        aloud: say which others there are.

    Raises:
        UserError: a dataset's config is wrong.
    """
    for dataset in datasets(cfg, split):
        kind = format_of(cfg, dataset)
        remote = '://' in place(dataset)
        if (kind is None or remote) and not aloud:
            continue
        if kind is None:
            notice(f'{split}: datasets of type {dataset.get("type")} are not checked')
            continue
        if remote:
            notice(f'{split}: {place(dataset)} is no local file and not checked')
            continue
        load = step_of(dataset, 'LoadAnnotations')
        local = bool(load) and not load.get('backend_args')
        source = Source(
            name=place(dataset),
            classes=class_names(cfg, dataset),
            ignore=dataset.get('ignore_index', 255),
            backend=step_of(dataset, 'LoadImageFromFile').get('imdecode_backend', 'cv2'),
            label_backend=load.get('imdecode_backend', 'pillow') if local else None,
            converted=converts_labels(
                dataset.get('pipeline') or (), dataset.get('_scope_', cfg.default_scope)
            ),
            splits=[split],
        )
        if kind == 'coco':
            _list_coco(source, dataset, read_annotations(cfg, split, dataset))
        elif kind == 'folders':
            _list_folders(cfg, source, dataset)
        else:
            _list_label_maps(cfg, source, dataset)
        yield source


def _list_coco(source: Source, dataset: Mapping[str, Any], coco: Coco) -> None:
    source.annotations = coco.annotations
    source.findings += coco.findings
    folder = image_folder(dataset, 'img')
    for name, width, height in coco.sizes:
        source.images.append(ImageFile(os.path.join(folder, name), (width, height)))
    if coco.rows is None:
        return
    source.counts = count_objects(
        coco.rows,
        filter_cfg=None if dataset.get('test_mode') else dataset.get('filter_cfg'),
        indices=dataset.get('indices'),
        poly2mask=step_of(dataset, 'LoadAnnotations').get('poly2mask', True),
    )
    names = [name for name, _, _ in coco.sizes]
    source.findings += verdicts.of_rows(source.name, coco.rows, names)


def _list_folders(cfg: Config, source: Source, dataset: Mapping[str, Any]) -> None:
    problem = problem_of_folders(cfg, source.splits[0], dataset)
    found = list_folders(dataset_class(cfg, dataset), dataset, source.classes, problem)
    source.findings += found.findings
    rows = take(found.rows, dataset.get('indices'))
    source.images += [ImageFile(path) for path, _ in rows]
    if source.classes is None or any(finding.error for finding in source.findings):
        return
    numbers = dict.fromkeys(source.classes, 0)
    for _, label in rows:
        if label >= 0:
            numbers[source.classes[label]] += 1
    unlabelled = sum(label < 0 for _, label in rows)
    source.counts = ImageCounts(numbers, unlabelled)


def _list_label_maps(cfg: Config, source: Source, dataset: Mapping[str, Any]) -> None:
    maps = list_label_maps(dataset_class(cfg, dataset), dataset, source.name)
    source.findings += [*maps.findings, *verdicts.of_heads(cfg.model, source.name)]
    there = not any(finding.kind == 'no label maps' for finding in maps.findings)
    for row in take(maps.rows, dataset.get('indices')):
        labels = row if there and 'seg_map_path' in row else None
        source.images.append(ImageFile(row['img_path'], labels=labels))
