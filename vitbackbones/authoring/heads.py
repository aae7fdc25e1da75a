"""Heads by their short names, and what a config learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from vitbackbones import tasks
from vitbackbones.data.configs import as_list
from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError
from vitbackbones.formats.own_data import WORDS, OwnData, Task
from vitbackbones.metafiles import INDEX

from .methods import refuse_classifiers

#: What each head learns from.
HEADS: Mapping[str, Task] = {
    'retinanet': 'boxes',
    'mask_rcnn': 'masks',
    'cascade_mask_rcnn': 'masks',
    'upernet': 'labels',
    'semantic_fpn': 'labels',
}

#: The head for what annotations teach.
DEFAULTS: Mapping[Task, str] = {'boxes': 'retinanet', 'masks': 'mask_rcnn', 'labels': 'upernet'}


#: {beginning of the name of a step or dataset: what else it reads than images and annotations}
BESIDES: Mapping[str, str] = {
    'LoadProposals': 'proposals that another detector has made',
    'LoadTrackAnnotations': 'tracks in videos',
    'MOTChallenge': 'tracks in videos',
    'TransformBroadcaster': 'several frames of a video',
    'YouTubeVIS': 'tracks in videos',
    'ReID': 'cut-outs of one person each',
    'LoadMultipleRS': 'pairs of images of one place',
    'ConcatCD': 'pairs of images of one place',
    'LoadDepth': 'maps of depth',
    'MultiBranch': 'images without annotations besides those with',
    'RefCoco': 'sentences about images',
    'ODVG': 'sentences about images',
}


def config_of(head: str, family: str) -> str:
    """Our config of a head, with a backbone of the family where there is one.

    Args:
        family: a network in small letters, such as ``shvit``.

    Raises:
        UserError: there is no such head.
    """
    if head not in HEADS:
        raise UserError(f'--head {head}: unknown, choose from {", ".join(HEADS)}')
    if head == 'semantic_fpn':  # some families have several, and some none
        folder = INDEX.parent / 'configs' / 'segmentation'
        own = sorted(folder.glob(f'{family}/{family}-*_semantic-fpn_*.py'))
        own = own or sorted(folder.glob('sepvit/sepvit-*_semantic-fpn_*.py'))
        return f'vitbackbones::{own[0].relative_to(folder.parent).as_posix()}'
    room = 'segmentation' if HEADS[head] == 'labels' else 'detection'
    return f'vitbackbones::{room}/{family}_{head}.py'


def task_of(cfg: Config, name: str) -> Task:
    """What a config learns from.

    Args:
        name: of the config, for the message.

    Raises:
        UserError: from something that no folder of ours teaches.
    """
    refuse_classifiers(cfg, name)
    steps = [*_steps(cfg)]
    if 'language_model' in cfg.model or any(step.get('return_classes') for step in steps):
        raise UserError(
            f'{name} learns from words about images, which --data cannot bring: choose one that '
            'learns from boxes, masks or label maps'
        )
    for step in steps:
        for start, what in BESIDES.items():
            if type_name(step).startswith(start):
                raise UserError(
                    f'{name} learns from {what} ({type_name(step)}), which --data cannot bring: '
                    'choose one that learns from boxes, masks or label maps'
                )
    if tasks.task_of(cfg.model) is tasks.Task.SEGMENTATION:
        return 'labels'
    loading = [step for step in steps if type_name(step).endswith('Annotations')]
    if any(step.get('with_seg') or 'Panoptic' in type_name(step) for step in loading):
        raise UserError(
            f'{name} learns from label maps and masks at once, which --data cannot bring: choose '
            'one that learns from boxes, masks or label maps'
        )
    return 'masks' if any(step.get('with_mask') for step in loading) else 'boxes'


def check_task(data: OwnData, cfg: Config, name: str) -> None:
    """A config must be able to learn from the annotations; masks have boxes, too.

    Raises:
        UserError: it cannot.
    """
    wanted = task_of(cfg, name)
    if wanted == data.task or (wanted, data.task) == ('boxes', 'masks'):
        return
    fitting = [head for head, task in HEADS.items() if task == data.task]
    fitting += ['retinanet'] if data.task == 'masks' else []
    raise UserError(
        f'{name} learns from {WORDS[wanted]}, but {data.folder} has {WORDS[data.task]}: choose '
        f'--head {" or ".join(fitting)}, or another --from'
    )


def _steps(cfg: Config) -> Iterator[Mapping[str, Any]]:
    """The steps of all pipelines of the training, those inside other steps too."""
    nodes: list[Any] = [(cfg.get('train_dataloader') or {}).get('dataset') or {}]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Mapping):
            yield node
            nodes += [
                each
                for key in ('dataset', 'datasets', 'pipeline', 'transforms')
                for each in as_list(node.get(key))
            ]
        elif isinstance(node, (list, tuple)):
            nodes += node
