"""One config of a sweep: written with another backbone, read, built, trained a step, and asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.noise import fit_to_noise, noise_batch

T = TypeVar('T')

#: Of the images, in pixels. Deformable convolutions on the last of five levels need the largest.
SIDES = (128, 256, 384, 512)
#: What is raised where images are too small, among others.
OF_SIZES = (AssertionError, IndexError, RuntimeError, ValueError)
SAMPLES = 32  # of regions for each head of a detector in two stages


class TrialError(Exception):
    """What went wrong, and while doing what."""


def trial(config: str, backbone: str | None) -> dict[str, Any]:
    """What became of a config, in the folder at hand; without ``backbone`` it is tried as it is."""
    found: dict[str, Any] = {}
    try:
        cfg = original(config) if backbone is None else swapped(config, backbone, found)
        warnings = [*found.pop('warnings', ()), *tried(cfg, backbone is not None)]
    except UserError as error:
        return dict(found, status='refused', reason=str(error))
    except TrialError as error:
        return dict(found, status='failed', reason=str(error))
    return dict(found, status='warning' if warnings else 'works', reason='; '.join(warnings))


def doing(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # of 170 methods, each of which may fail with anything
        words = ' '.join(str(error).split())
        raise TrialError(f'{what}: {type(error).__name__}: {words[:300]}') from error


# ------------------------------------------------------------------------------ the config


def original(config: str) -> Config:
    from vitbackbones.authoring.draft import inherited

    cfg = doing('read', lambda: inherited([config]))
    if 'model' not in cfg:
        raise TrialError('read: there is no model in it')
    without_weights(cfg.model)
    return cfg


def swapped(config: str, backbone: str, found: dict[str, Any]) -> Config:
    """What ``vitbackbones new`` writes, read again."""
    from vitbackbones.authoring.new import new_config

    path = Path('swapped.py').absolute()
    written = doing('write', lambda: new_config(config, backbone, path, weights='none', force=True))
    lines = [line.strip() for line in path.read_text().splitlines()]
    found['lines'] = sum(bool(line) and not line.startswith('#') for line in lines)
    found['rules'] = list(written.said)
    start = 'warning: '
    found['warnings'] = [x.removeprefix(start) for x in written.said if x.startswith(start)]
    cfg = doing('read', lambda: Config.fromfile(path))
    without_weights(cfg.model)  # of other parts than the backbone
    return cfg


def without_weights(node: Any) -> None:
    """Nothing can be fetched where this runs, and whether it runs depends on no weight."""
    if isinstance(node, dict):
        if node.get('pretrained'):
            node['pretrained'] = False if node['pretrained'] is True else None
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list, tuple)):
            without_weights(value)


# ------------------------------------------------------------------------------- the model


def tried(cfg: Config, own: bool) -> Sequence[str]:
    """Build it, train a step, predict; what is to be warned of.

    There are methods for which the smallest images are too small.

    Args:
        own: whether the backbone is one of ours, all of which must learn.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    adapt_to_device(cfg)
    with_fewer_samples(cfg.model)
    needed = noise_batch(cfg.model, 1)['inputs'][0].shape[-1]
    *small, last = SIDES if needed <= max(SIDES) else (needed,)
    for side in small:
        try:
            return tried_at(side, copy.deepcopy(cfg), own)  # building a model may change its config
        except TrialError as error:
            if not isinstance(error.__cause__, OF_SIZES):
                raise
    return tried_at(last, cfg, own)


def tried_at(side: int, cfg: Config, own: bool) -> Sequence[str]:
    fit_to_noise(cfg.model, side)
    torch.manual_seed(0)
    for name in ('iter', 'epoch'):  # some losses begin small, and ask mmengine how far it is
        MessageHub.get_current_instance().update_info(name, 0)
    model = doing('build', lambda: MODELS.build(cfg.model))
    doing('initialise', model.init_weights)
    ours = [part for part in model.modules() if isinstance(part, Backbone)]
    if own and not ours:
        raise TrialError('build: the model has no backbone of ours')
    read = watched_gradients(ours)
    wrapper = doing('optimizer', lambda: build_optim_wrapper(model, cfg.optim_wrapper))
    doing('step', lambda: step(model, wrapper, noise_batch(cfg.model, side=side)))
    doing('prediction', lambda: predict(model, noise_batch(cfg.model, side=side, training=False)))
    unread = [name for name, seen in read.items() if not seen]
    many = f'{len(unread)} parameters of the backbone get no gradient, as {unread[:1]}'
    return [many] if unread else []


def with_fewer_samples(node: Any) -> None:
    """Let heads learn from some regions: hundreds of them are most of what a step takes."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in [*pairs]:
        if key == 'num' and isinstance(value, int):
            node[key] = min(value, SAMPLES)
        elif isinstance(value, (dict, list, tuple)):
            with_fewer_samples(value)


def step(model: nn.Module, wrapper: OptimWrapper, data: dict[str, Any]) -> None:
    losses = model.train().train_step(data, wrapper)
    bad = [key for key, value in losses.items() if not torch.isfinite(value).all()]
    if bad or not losses:
        raise ValueError(f'{", ".join(bad) or "no loss"} is not finite')


@torch.no_grad()
def predict(model: nn.Module, data: dict[str, Any]) -> None:
    samples = model.eval().test_step(data)
    samples = [
        each for sample in samples for each in getattr(sample, 'video_data_samples', [sample])
    ]
    names = {name for sample in samples for name, _ in sample.items()}
    if not any(name.startswith('pred') for name in names):
        raise ValueError(f'no prediction, only {", ".join(sorted(names))}')


def watched_gradients(networks: Sequence[nn.Module]) -> dict[str, bool]:
    """Whether parameters get a gradient in what follows."""
    seen = {}

    def watch(name: str, parameter: Tensor) -> None:
        seen[name] = False
        parameter.register_hook(lambda _: seen.update({name: True}))

    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                watch(name, parameter)
    return seen
