"""Test time augmentation: several views of each image, merged by the models of the frameworks."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from vitbackbones.data.configs import datasets, iter_datasets, wants_masks
from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task, task_of

#: Of the scale of a test, that itself first.
SCALES = (1.0, 0.75, 1.25)

#: What images are padded to stays divisible by it, as heads that add maps up need it.
DIVISOR = 32

# Heads by their names in a config that predict what mmdet does not merge.
_UNMERGED = ('mask_head', 'panoptic_head', 'panoptic_fusion_head')
_FLIP_KEYS = ('flip', 'flip_direction')  # what merging asks of a view

Step = Mapping[str, Any]


def check_views(cfg: Config) -> None:
    """That several views of an image can be made and what is predicted of them merged.

    Raises:
        UserError: the model predicts masks or one channel, or the test pipeline has no scale that
            could vary.
    """
    task = task_of(cfg.model)
    if task is Task.DETECTION and (
        _has_key(cfg.model, _UNMERGED)
        or any(wants_masks(cfg, 'test', dataset) for dataset in datasets(cfg, 'test'))
    ):
        raise UserError(
            f"--tta: {type_name(cfg.model)} predicts masks, and mmdet's DetTTAModel merges boxes "
            'alone; choose a detector of boxes, or leave --tta out'
        )
    merging = type_name(cfg.get('tta_model') or _merging(cfg.model, task))
    if merging == 'SegTTAModel' and _has_one_channel(cfg.model):
        raise UserError(
            "--tta: the decode_head has out_channels=1, of which mmseg's SegTTAModel takes the "
            'sigmoid twice; leave --tta out, or write another tta_model into the config'
        )
    if cfg.get('tta_pipeline') is None:
        for dataset in datasets(cfg, 'test'):
            _split(dataset.get('pipeline') or [], task)


def use_views(built: Config) -> None:
    """Let a test have several views of each image, and a model that merges what it finds in them.

    ``tta_pipeline`` and ``tta_model`` of the config are taken where there are any. Else images are
    tested as they are and mirrored, each at all of :data:`SCALES`, those of a classifier at its
    own; and boxes are merged by the model's own suppression.

    Args:
        built: a config as a run is built of it, see :func:`~vitbackbones.launch.built.as_built`; it
            is changed.
    """
    task = task_of(built.model)
    for dataset in iter_datasets(built.test_dataloader.dataset):
        _use_views(dataset, task, built.get('tta_pipeline'))
    preprocessor = built.pop('data_preprocessor', None)
    if preprocessor is not None:  # which would be set in the place of the model's own
        built.model.setdefault('data_preprocessor', preprocessor)
    merging = built.get('tta_model') or _merging(built.model, task)
    built.model = ConfigDict(**merging, module=built.model)


def _use_views(dataset: Any, task: Task, own: Sequence[Step] | None) -> None:
    steps = dataset['pipeline']
    checked = steps[0] if type_name(steps[0]) == 'CheckedPipeline' else None
    if checked is not None:
        steps = checked['steps']
    if own is None:
        head, tail = _split(steps, task)
        # Label maps are loaded by the steps of each view, and looked at there.
        kind = checked or dict(type='vitbackbones.CheckedPipeline')
        views = [ConfigDict({**kind, 'steps': view}) for view in _views(tail, task)]
        own = [*head, ConfigDict(type='TestTimeAug', transforms=[views])]
    elif checked is not None:
        own = [_with_label_maps_checked(step, checked) for step in own]
    dataset['pipeline'] = own if checked is None else [ConfigDict({**checked, 'steps': own})]


def _with_label_maps_checked(step: Any, kind: Step) -> Any:
    """A step of a config's own, in which what each view loads is looked at as in a test."""
    if type_name(step) == 'TestTimeAug':
        parts = [
            [_with_label_maps_checked(each, kind) for each in views] for views in step['transforms']
        ]
        return ConfigDict({**step, 'transforms': parts})
    if isinstance(step, (list, tuple)):
        return [_with_label_maps_checked(each, kind) for each in step]
    return ConfigDict({**kind, 'steps': [step]}) if 'Annotations' in type_name(step) else step


def _split(steps: Sequence[Step], task: Task) -> tuple[Sequence[Step], Sequence[Step]]:
    """The steps that all views share, and those of which each has its own.

    Raises:
        UserError: no step has a scale.
    """
    names = [type_name(step) for step in steps]
    if task is Task.CLASSIFICATION:
        return steps[:-1], steps[-1:]
    for i, (name, step) in enumerate(zip(names, steps, strict=True)):
        if name == 'Resize' and (step.get('scale') or step.get('scale_factor')):
            return steps[:i], steps[i:]
    raise UserError(
        f'--tta: the test pipeline, {", ".join(names) or "without steps"}, has no Resize whose '
        'scale could vary; write a tta_pipeline into the config'
    )


def _views(tail: Sequence[Step], task: Task) -> Iterator[list[Step]]:
    """The steps of each view."""
    *middle, pack = tail
    if pack.get('meta_keys') is not None:
        pack = {**pack, 'meta_keys': (*dict.fromkeys((*pack['meta_keys'], *_FLIP_KEYS)),)}
    for factor in (1.0,) if task is Task.CLASSIFICATION else SCALES:
        for prob in (0.0, 1.0):
            # Before padding, whose place it would change.
            flip = dict(type='RandomFlip', prob=prob)
            resized = [_scaled(step, factor) for step in middle]
            yield [*resized[:1], flip, *resized[1:], pack]


def _scaled(step: Step, factor: float) -> Step:
    """A step of a pipeline for images so many times as large."""
    match type_name(step):
        case 'Resize':
            if step.get('scale') is None:
                return {**step, 'scale_factor': _each(step['scale_factor'], lambda s: s * factor)}
            return {**step, 'scale': _each(step['scale'], lambda side: round(side * factor))}
        case 'Pad' if step.get('size') and factor != 1:
            parts = factor / DIVISOR
            return {
                **step,
                'size': _each(step['size'], lambda side: DIVISOR * math.ceil(side * parts)),
            }
    return step


def _each(value: Any, do: Any) -> Any:
    """``do`` of a number, or of each of several."""
    return tuple(map(do, value)) if isinstance(value, (list, tuple)) else do(value)


def _merging(model: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The config of the model that merges predictions, as the framework has it."""
    if task is Task.SEGMENTATION:
        return dict(type='mmseg.SegTTAModel')
    if task is Task.CLASSIFICATION:
        return dict(type='mmpretrain.AverageClsScoreTTA')
    test_cfg = model.get('test_cfg') or {}
    test_cfg = test_cfg.get('rcnn') or test_cfg
    nms = test_cfg.get('nms') or dict(type='nms', iou_threshold=0.5)
    most = test_cfg.get('max_per_img')
    if most is None or most < 0:  # as many as there are; merging cuts in any case
        most = sys.maxsize
    # In mmengine's own registry, where mmdet has put it.
    return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=most))


def _has_one_channel(model: Mapping[str, Any]) -> bool:
    heads = model.get('decode_head') or {}
    last = heads[-1] if isinstance(heads, (list, tuple)) else heads
    return last.get('out_channels') == 1


def _has_key(node: Any, keys: Sequence[str]) -> bool:
    """Whether a dict somewhere in a part of a config has something under one of ``keys``."""
    if isinstance(node, Mapping):
        return any(
            (key in keys and bool(value)) or _has_key(value, keys) for key, value in node.items()
        )
    return isinstance(node, (list, tuple)) and any(_has_key(part, keys) for part in node)
