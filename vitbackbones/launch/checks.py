"""The checks of a config before anything starts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS

from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import is_address
from vitbackbones.data.configs import datasets, metrics_of
from vitbackbones.errors import UserError

from .classes import check_classes
from .evaluation import check_evaluated_files

# What mmengine reads names of published weights by.
_MODEL_ZOOS = ('modelzoo', 'torchvision', 'open-mmlab', 'openmmlab', 'mmcls', 'jhu')


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Find mistakes in a config before mmengine fails on them.

    Args:
        splits: those of 'train', 'val', 'test' that are about to be used.

    Raises:
        UserError: unknown backbone or backbone option, missing data, or class names that the
            annotations do not know.
    """
    build_backbone(cfg)
    for split in splits:
        if cfg.get(f'{split}_dataloader'):
            _check_data(cfg, split)


def build_backbone(cfg: Config) -> Backbone | None:
    """The config's backbone without memory for its weights; None if it is not one of ours.

    Those of networks inside the model, as semi-supervised ones have, are tried as well.

    Raises:
        UserError: unknown type, option or value.
    """
    built = {path: _build(network, path) for path, network in _networks_of_ours(cfg.model, 'model')}
    return built.get('model')


def _build(network: Mapping[str, Any], path: str) -> Backbone:
    options = dict(network['backbone'])
    cls = backbone_class(options)
    assert cls is not None
    _check_no_weights_of_others(network, path, cls)
    for key in ('_scope_', 'type'):
        options.pop(key, None)
    known = list(inspect.signature(cls).parameters)
    for key in options:
        if key not in known:
            raise UserError(f'{cls.__name__} has no option {key!r}, choose from {", ".join(known)}')
    try:
        with torch.device('meta'):
            return cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f'{path}.backbone: {error}; its options are {options}') from error


def backbone_class(options: Any) -> type[Backbone] | None:
    """The class of a backbone's config; None if it is not one of ours."""
    name = options.get('type') if isinstance(options, Mapping) else None
    cls = ROOT_MODELS.get(name) if isinstance(name, str) else name
    return cls if inspect.isclass(cls) and issubclass(cls, Backbone) else None


def trains_ours(node: Any) -> bool:
    """Whether a model's config has one of our backbones, be it inside a semi-supervised one."""
    return next(_networks_of_ours(node, ''), None) is not None


def _networks_of_ours(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a model's config that have a backbone of ours, with their places."""
    if isinstance(node, Mapping):
        if backbone_class(node.get('backbone')) is not None:
            yield path, node
        for key, value in node.items():
            yield from _networks_of_ours(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _networks_of_ours(value, f'{path}.{i}')


def has_data(cfg: Config, splits: Sequence[str]) -> bool:
    """Whether the local files and folders that the datasets of ``splits`` name exist."""
    return not any(_missing(cfg, split) for split in splits)


def require(cfg: Config, *keys: str) -> None:
    """Raise UserError unless the config has all of ``keys``."""
    missing = [key for key in keys if cfg.get(key) is None]  # an empty dict takes all defaults
    if missing:
        raise UserError(f'the config has no {", ".join(missing)}; it has {", ".join(cfg)}')


def _check_no_weights_of_others(network: Mapping[str, Any], path: str, cls: type[Backbone]) -> None:
    """Weights are named by ``init_cfg``, and those of a ResNet do not fit: refuse what is left."""
    hint = (
        f"weights of {cls.__name__} come from {path}.backbone.init_cfg=dict(type='Pretrained', "
        'checkpoint=FILE), random ones from init_cfg=None'
    )
    if network.get('pretrained') is not None:
        raise UserError(
            f'{path}.pretrained={network["pretrained"]!r} is left from another backbone: set '
            f'{path}.pretrained=None; {hint}'
        )
    backbone = network['backbone']
    if 'pretrained' in backbone:
        raise UserError(
            f'{path}.backbone.pretrained={backbone["pretrained"]!r} is left from another backbone: '
            f'leave it out; {hint}'
        )
    init = backbone.get('init_cfg')
    source = init.get('checkpoint') if isinstance(init, Mapping) else None
    if not isinstance(source, str) or '://' not in source or is_address(source):
        return
    what = 'cannot be read, only paths, http(s) addresses and hf://owner/name/FILE can'
    if source.partition('://')[0] in _MODEL_ZOOS:
        what = 'names weights of another backbone in a model zoo'
    raise UserError(f'{path}.backbone.init_cfg.checkpoint={source!r} {what}; {hint}')


def _check_data(cfg: Config, split: str) -> None:
    loader = f'{split}_dataloader'
    missing = _missing(cfg, split)
    evaluated = [
        metric['ann_file'] for metric, _ in metrics_of(cfg, split) if metric.get('ann_file')
    ]
    absent = [path for path in evaluated if _absent(path)]
    if absent and not missing:
        raise UserError(
            f'{split}_evaluator.ann_file={absent[0]} is not there, though the {split} dataset is: '
            'name the same annotation file in both'
        )
    missing += absent
    if missing:
        paths = ', '.join(dict.fromkeys(missing))
        raise UserError(
            f'the {split} dataset is not there: {paths} missing. Put it there, or name its place '
            f'with --cfg-options {loader}.dataset.data_root=DIR (evaluators have an ann_file of '
            'their own); --demo runs the same config on generated images without a download'
        )
    for dataset in datasets(cfg, split):
        check_classes(cfg, split, dataset)
    check_evaluated_files(cfg, split)


def _missing(cfg: Config, split: str) -> list[str]:
    return [path for dataset in datasets(cfg, split) for path in _paths(dataset) if _absent(path)]


def _paths(dataset: Mapping[str, Any]) -> list[str]:
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    prefixes = [prefix] if isinstance(prefix, str) else prefix.values()
    if dataset.get('split') and not any(prefixes):  # mmpretrain's
        prefixes = [dataset['split']]
    parts = [dataset.get('ann_file'), *prefixes]
    return [os.path.join(root, part) for part in parts if isinstance(part, str) and part]


def _absent(path: str) -> bool:
    """Whether a local path does not exist; what is in a remote store cannot be told here."""
    return '://' not in path and not Path(path).exists()
