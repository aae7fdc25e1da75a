"""The datasets of a config: where their files are, and training on them that names what is bad."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, METRICS

from vitbackbones.errors import UserError, notice

from . import verdicts
from .annotations import Coco, read_coco
from .counts import ObjectCounts, PixelCounts, count_objects, take
from .findings import Finding
from .label_maps import list_label_maps
from .loading import in_file_order, is_coco
from .nodes import base_names, type_name
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
        annotations: their number; None for label maps.
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
    counts: ObjectCounts | PixelCounts | None = None

    def is_like(self, other: Source) -> bool:
        """Whether the other one, of another split, would be counted as this one."""
        if (self.name, self.classes, self.ignore) != (other.name, other.classes, other.ignore):
            return False
        if self.annotations is not None or other.annotations is not None:
            return self.counts == other.counts
        return (self.images, self.converted) == (other.images, other.converted)


def sources(cfg: Config, split: str, *, aloud: bool = True) -> Iterator[Source]:
    """Those of a split that are COCO's annotations or folders of label maps.

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
        else:
            _list_label_maps(cfg, source, dataset)
        yield source


def check_files_as_they_come(cfg: Config, splits: Sequence[str]) -> None:
    """Let the datasets of ``splits`` stop at a bad file with its name, see CheckedPipeline."""
    for split in splits:
        for dataset in datasets(cfg, split):
            kind = format_of(cfg, dataset)
            steps = dataset.get('pipeline')
            if kind is None or not steps or type_name(steps[0]) == 'CheckedPipeline':
                continue
            checked = ConfigDict(type='vitbackbones.CheckedPipeline', steps=steps)
            classes = class_names(cfg, dataset)
            if kind == 'label maps' and classes is not None:
                checked.update(classes=len(classes), ignore=dataset.get('ignore_index', 255))
            cast(ConfigDict, dataset).pipeline = [checked]


def format_of(cfg: Config, dataset: Mapping[str, Any]) -> str | None:
    """'coco', 'label maps', or None for what is not known here."""
    cls = dataset_class(cfg, dataset)
    if is_coco(cls):
        return 'coco'
    names = {f'{base.__module__}.{base.__name__}' for base in cls.__mro__}
    return 'label maps' if 'mmseg.datasets.basesegdataset.BaseSegDataset' in names else None


def datasets(cfg: Config, split: str) -> Iterator[Mapping[str, Any]]:
    """The configs of a split's datasets, without what wraps them.

    Raises:
        UserError: one names its folder as no dataset of mmdet or mmseg takes it.
    """
    whole = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    for dataset in iter_datasets(whole) if whole else ():
        prefix = dataset.get('data_prefix')
        kind = format_of(cfg, dataset) if isinstance(prefix, str) else None
        if kind is not None:  # others may take text
            key = 'img' if kind == 'coco' else 'img_path'
            raise UserError(
                f'{split}_dataloader: data_prefix={prefix!r} must be a dict, '
                f'data_prefix=dict({key}={prefix!r}), for a {dataset.get("type")}'
            )
        yield dataset


def number_of_datasets(cfg: Config, split: str) -> int:
    """How many there are, those of other formats and in remote stores too."""
    return sum(1 for _ in datasets(cfg, split))


def needs_annotations(cfg: Config, split: str) -> bool:
    """Whether they are learnt from or compared with: results may only be written down."""
    if split == 'train':
        return True
    metrics = [metric for metric, _ in metrics_of(cfg, split)]
    return not metrics or not all(_only_writes(cfg, metric) for metric in metrics)


def _only_writes(cfg: Config, metric: Mapping[str, Any]) -> bool:
    """Whether results are put into a file, and compared with nothing."""
    if metric.get('format_only'):
        return True
    return 'DumpResults' in base_names(metric, METRICS, cfg.get('default_scope'))


def metrics_of(
    cfg: Config, split: str
) -> Iterator[tuple[dict[str, Any], Sequence[Mapping[str, Any]]]]:
    """The metrics of a split, also those inside an evaluator, with the datasets that each is of."""
    yield from _metrics(cfg.get(f'{split}_evaluator'), cfg, split)


def _metrics(
    node: Any, cfg: Config, split: str
) -> Iterator[tuple[dict[str, Any], Sequence[Mapping[str, Any]]]]:
    for part in as_list(node):
        if not isinstance(part, dict):
            continue  # has been built
        if 'metrics' not in part:
            yield part, list(datasets(cfg, split))
        elif type_name(part) == 'MultiDatasetsEvaluator':  # its metrics share out the datasets
            whole = cfg[f'{split}_dataloader'].dataset
            parts = as_list(whole.get('datasets')) or [whole]
            for metric, dataset in zip(as_list(part['metrics']), parts, strict=False):
                yield metric, list(iter_datasets(dataset))
        else:
            yield from _metrics(part['metrics'], cfg, split)


def read_annotations(cfg: Config, split: str, dataset: Mapping[str, Any]) -> Coco:
    """What a dataset's annotation file holds, see :func:`~.annotations.read_coco`."""
    return read_coco(
        Path(place(dataset)),
        class_names(cfg, dataset),
        masks=wants_masks(cfg, split, dataset),
        test=bool(dataset.get('test_mode')),
        ordered=in_file_order(dataset_class(cfg, dataset)),
    )


def wants_masks(cfg: Config, split: str, dataset: Mapping[str, Any]) -> bool:
    """Whether masks of a dataset are loaded, or evaluated."""
    if step_of(dataset, 'LoadAnnotations').get('with_mask'):
        return True
    return any(
        'segm' in as_list(metric.get('metric'))
        for metric, measured in metrics_of(cfg, split)
        if dataset in measured
    )


def _list_coco(source: Source, dataset: Mapping[str, Any], coco: Coco) -> None:
    source.annotations = coco.annotations
    source.findings += coco.findings
    folder = _folder(dataset, 'img')
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


def _list_label_maps(cfg: Config, source: Source, dataset: Mapping[str, Any]) -> None:
    maps = list_label_maps(dataset_class(cfg, dataset), dataset, source.name)
    source.findings += [*maps.findings, *verdicts.of_heads(cfg.model, source.name)]
    there = not any(finding.kind == 'no label maps' for finding in maps.findings)
    for row in take(maps.rows, dataset.get('indices')):
        labels = row if there and 'seg_map_path' in row else None
        source.images.append(ImageFile(row['img_path'], labels=labels))


def class_names(cfg: Config, dataset: Mapping[str, Any]) -> Sequence[str] | None:
    """The classes of a dataset in the order of their labels, None where it has none.

    Raises:
        UserError: its config gives them as one text, or gives one of them twice.
    """
    own = getattr(dataset_class(cfg, dataset), 'METAINFO', {})
    chosen = (dataset.get('metainfo') or {}).get('classes')
    if isinstance(chosen, str):
        if not os.path.isfile(chosen):  # which mmengine would read
            raise UserError(
                f'metainfo.classes={chosen!r} is one text and no names: a comma is missing, '
                f'classes=({chosen!r},)'
            )
        chosen = list_from_file(chosen)
    twice = [name for name, count in Counter(as_list(chosen)).items() if count > 1]
    if twice:
        raise UserError(f'metainfo.classes={tuple(as_list(chosen))} has {twice[0]!r} twice')
    classes = own.get('classes') if chosen is None else chosen
    return classes if isinstance(classes, (list, tuple)) else None


def place(dataset: Mapping[str, Any]) -> str:
    """The annotation file, or the folder of images where there is none."""
    if dataset.get('ann_file'):
        return os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    return _folder(dataset, 'img_path')


def _folder(dataset: Mapping[str, Any], key: str) -> str:
    prefix = dataset.get('data_prefix') or ''
    folder = prefix if isinstance(prefix, str) else prefix.get(key) or ''
    return os.path.join(dataset.get('data_root') or '', folder)


def step_of(dataset: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The first step of a pipeline with this name, nothing if there is none."""
    steps = dataset.get('pipeline') or []
    for step in steps:
        if type_name(step) == name:
            return step
    return {}


def iter_datasets(dataset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The datasets inside wrappers such as RepeatDataset or ConcatDataset."""
    inner = as_list(dataset.get('dataset')) + as_list(dataset.get('datasets'))
    if not inner:
        yield dataset
    for part in inner:
        yield from iter_datasets(part)


def dataset_class(cfg: Config, dataset: Mapping[str, Any]) -> Any:
    """The class that a dataset's config names, from the scope of the config.

    Raises:
        UserError: there is none of that name.
    """
    name = dataset.get('type')
    if isinstance(name, type):
        return name
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_', cfg.default_scope)) as registry:
        cls = registry.get(name)
    if cls is None:
        raise UserError(f'there is no dataset of type {name!r} in {cfg.default_scope}')
    return cls


def as_list(value: Any) -> list[Any]:
    """One of something, several or None, as configs have them."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def coco_class_names(path: Path) -> list[str]:
    """Class names of a COCO annotation file, found without parsing its other 400 MB."""
    with path.open('rb') as file:
        encoding = json.detect_encoding(file.read(4))
        if encoding in ('utf-8', 'utf-8-sig') and path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                rows = _categories(data)
        else:  # somebody's export, not one of the large ones
            file.seek(0)
            rows = _categories(file.read().decode(encoding, 'replace').encode())
    return [str(row['name']) for row in rows or ()]


def _categories(data: mmap.mmap | bytes) -> list[dict[str, Any]] | None:
    for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', data):
        end = data.find(b']', match.end())
        while end >= 0:
            try:
                rows = json.loads(data[match.end() : end + 1])
            except ValueError:  # a bracket inside a category: read on to the next one
                end = data.find(b']', end + 1)
                continue
            if rows and all(isinstance(row, dict) and 'name' in row for row in rows):
                return rows
            break
    return None
