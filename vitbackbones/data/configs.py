"""What a config says of its datasets: their files and formats, and what measures them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, METRICS

from vitbackbones.errors import UserError

from .annotations import Coco, read_coco
from .folders import class_folders, folder_of, list_of, wrong_folders
from .loading import in_file_order, is_coco
from .nodes import base_names, type_name


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
    """'coco', 'label maps', 'folders' by class, or None for what is not known here."""
    cls = dataset_class(cfg, dataset)
    if is_coco(cls):
        return 'coco'
    names = {f'{base.__module__}.{base.__name__}' for base in cls.__mro__}
    kinds = {
        'mmseg.datasets.basesegdataset.BaseSegDataset': 'label maps',
        'mmpretrain.datasets.custom.CustomDataset': 'folders',
    }
    return next((kind for base, kind in kinds.items() if base in names), None)


def datasets(cfg: Config, split: str) -> Iterator[Mapping[str, Any]]:
    """The configs of a split's datasets, without what wraps them.

    Raises:
        UserError: one names its folder as no dataset of mmdet or mmseg takes it.
    """
    whole = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    for dataset in iter_datasets(whole) if whole else ():
        prefix = dataset.get('data_prefix')
        kind = format_of(cfg, dataset) if isinstance(prefix, str) else None
        if kind in ('coco', 'label maps'):  # others may take text
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


def class_names(cfg: Config, dataset: Mapping[str, Any]) -> Sequence[str] | None:
    """The classes of a dataset in the order of their labels, None where it has none.

    Raises:
        UserError: its config gives them as one text, or gives one of them twice.
    """
    own = getattr(dataset_class(cfg, dataset), 'METAINFO', {})
    chosen = _chosen(dataset)
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
    if classes is None and format_of(cfg, dataset) == 'folders':
        classes = class_folders(dataset)
    return classes if isinstance(classes, (list, tuple)) else None


def _chosen(dataset: Mapping[str, Any]) -> Any:
    """The classes that a dataset's config gives; mmpretrain's may have them beside metainfo."""
    return (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')


def problem_of_folders(cfg: Config, split: str, dataset: Mapping[str, Any]) -> str | None:
    """Why labels that folders give do not mean the classes of the training, None if they do."""
    classes = class_names(cfg, dataset)
    if format_of(cfg, dataset) != 'folders' or classes is None:
        return None
    trained = None
    if split != 'train':
        others = [each for each in datasets(cfg, 'train') if format_of(cfg, each) == 'folders']
        trained = class_folders(others[0]) if others else None
    return wrong_folders(dataset, classes, _chosen(dataset) is not None, trained)


def place(dataset: Mapping[str, Any]) -> str:
    """The annotation file, or the folder of images where there is none."""
    if dataset.get('split'):  # mmpretrain's
        return list_of(dataset) or folder_of(dataset)
    if dataset.get('ann_file'):
        return os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    return image_folder(dataset, 'img_path')


def image_folder(dataset: Mapping[str, Any], key: str) -> str:
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
