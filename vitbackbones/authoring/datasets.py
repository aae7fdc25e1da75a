"""The user's data in the place of a config's: datasets of training, validation and test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitbackbones.data.configs import as_list, iter_datasets
from vitbackbones.data.nodes import type_name
from vitbackbones.formats.own_data import OwnData, Split, Task

from .draft import Draft
from .writing import plain

SPLITS = ('train', 'val', 'test')

#: The metric of the best checkpoint.
METRICS: Mapping[Task, str] = {
    'boxes': 'coco/bbox_mAP',
    'masks': 'coco/segm_mAP',
    'labels': 'mIoU',
}

Step = dict[str, Any]


def pipeline_of(draft: Draft, split: str) -> list[Step]:
    """The steps of a split's (first) dataset itself, not those of what mixes its images."""
    whole = draft.get(f'{split}_dataloader.dataset') or {}
    inner = next(iter_datasets(whole), {})
    return [plain(step) for step in inner.get('pipeline') or ()]


def put_datasets(
    draft: Draft, data: OwnData, task: Task, pipelines: Mapping[str, list[Step]], *, ours: bool
) -> None:
    """Let all splits read the user's data, and be measured by them.

    What repeats, joins or balances datasets goes; what mixes several images stays.

    Args:
        task: of the config.
        pipelines: of the datasets themselves, by 'train', 'val' and 'test'.
        ours: whether the head is one of ours, which learn from images without objects, too, where
            these are not the most.
    """
    draft.drop('tta_pipeline', 'That of other data; `test --tta` varies the scale of this test.')
    draft.set('data_root', os.path.abspath(data.folder), f'Your data: {data.form}.')
    for split in SPLITS:
        chosen = data.splits[split if split in data.splits else 'val']
        if not draft.get(f'{split}_dataloader'):
            draft.set(
                f'{split}_dataloader',
                dict(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)),
            )
        old = draft.get(f'{split}_dataloader.dataset') or {}

        def made(inner: Mapping[str, Any], chosen: Split = chosen, split: str = split) -> Step:
            if task == 'labels':
                return _label_maps(data, chosen, pipelines[split])
            return _coco(data, chosen, pipelines[split], split, inner, ours)

        draft.set(f'{split}_dataloader.dataset', _mixed(old, made))
        if split != 'train':
            draft.set(f'{split}_evaluator', _evaluator(chosen, task))
            if not draft.get(f'{split}_cfg'):
                draft.set(f'{split}_cfg', dict(type=f'{split.title()}Loop'))
    if 'test' not in data.splits:
        why = 'There is no test split: what is tested is validation.'
        draft.explain('test_dataloader', why)


def _mixed(node: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Step]) -> Step:
    """The new dataset in whatever mixes several images of the old one."""
    if type_name(node) == 'MultiImageMixDataset':
        return {**plain(node), 'dataset': _mixed(node['dataset'], make)}
    inner = as_list(node.get('dataset')) + as_list(node.get('datasets'))
    return _mixed(inner[0], make) if inner else make(node)


def _coco(
    data: OwnData,
    chosen: Split,
    pipeline: list[Step],
    split: str,
    old: Mapping[str, Any],
    ours: bool,
) -> Step:
    dataset: Step = dict(
        type='CocoDataset',
        data_root=os.path.abspath(data.folder),
        ann_file=_below(data, chosen.annotations),
        data_prefix=dict(img=_below(data, chosen.images)),
        metainfo=dict(classes=data.classes, palette=_colours(data)),
    )
    if split != 'train':
        dataset['test_mode'] = True
    elif old.get('filter_cfg'):  # which images a method can do without is the method's to say
        dataset['filter_cfg'] = plain(old['filter_cfg'])
        if ours and 2 * _without_objects(data) <= len(data.image_sizes):
            dataset['filter_cfg']['filter_empty_gt'] = False
    return dict(dataset, pipeline=pipeline)


def _without_objects(data: OwnData) -> int:
    """How many images of the training show nothing."""
    return len(data.image_sizes) - len(set(data.objects[:, 2].astype(int).tolist()))


def _label_maps(data: OwnData, chosen: Split, pipeline: list[Step]) -> Step:
    dataset: Step = dict(
        type='BaseSegDataset',
        data_root=os.path.abspath(data.folder),
        data_prefix=dict(
            img_path=_below(data, chosen.images),
            seg_map_path=_below(data, chosen.annotations),
        ),
        img_suffix=data.image_suffix,
        seg_map_suffix=data.label_suffix,
        metainfo=dict(classes=data.classes, palette=_colours(data)),
        reduce_zero_label=False,
    )
    if chosen.names is not None:
        dataset['ann_file'] = _below(data, chosen.names)
    return dict(dataset, pipeline=pipeline)


def _evaluator(chosen: Split, task: Task) -> Step:
    if task == 'labels':
        return dict(type='IoUMetric', iou_metrics=['mIoU'])
    return dict(
        type='CocoMetric',
        ann_file=os.path.abspath(chosen.annotations),
        metric=['bbox', 'segm'] if task == 'masks' else 'bbox',
    )


def _colours(data: OwnData) -> list[tuple[int, ...]]:
    return [tuple(int(value) for value in colour) for colour in data.palette]


def _below(data: OwnData, path: Path) -> str:
    """A path as a dataset with ``data_root`` takes it; what we have written is no part of that."""
    root, whole = os.path.abspath(data.folder), os.path.abspath(path)
    if data.written is not None and Path(whole).is_relative_to(os.path.abspath(data.written)):
        return whole
    if whole == root:
        return ''
    return Path(whole).relative_to(root).as_posix() if Path(whole).is_relative_to(root) else whole
