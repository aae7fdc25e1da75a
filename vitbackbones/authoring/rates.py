"""Optimizer and schedule brought from the rates of one backbone to those of another."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch

from .draft import Draft
from .ours import Recipe

#: A rate of AdamW's that differs more than so many times from the published one is spoken of.
FAR = 4

#: What of a schedule is a rate itself. `start_factor`, `gamma` and the like are relative.
ABSOLUTE = ('eta_min', 'eta_max')

#: mmengine's own constructor of parameter groups, which knows no layers.
PLAIN = 'DefaultOptimWrapperConstructor'


def set_rates(draft: Draft, recipe: Recipe, family: str, *, from_random: bool) -> None:
    """Published rates in the place of SGD's; AdamW is kept.

    Args:
        recipe: how the new backbone was published to be trained.
        family: its name for messages.
        from_random: whether it starts from random weights, so that nothing has to be spared.
    """
    wrapper = draft.get('optim_wrapper')
    if not isinstance(wrapper, Mapping) or 'optimizer' not in wrapper:
        draft.said.append('optimizer: optim_wrapper has several optimizers, or none: left alone')
        return
    old, new = wrapper['optimizer'], recipe.optim_wrapper['optimizer']
    constructor = str(wrapper.get('constructor', PLAIN))
    foreign = constructor != PLAIN and not constructor.startswith('vitbackbones.')
    before = shown(old)
    if old.get('type') != 'AdamW':
        draft.set('optim_wrapper.optimizer', _without_defaults(new))
        draft.explain(
            'optim_wrapper',
            f'{family} was published with {new["type"]}, as in {recipe.source}: '
            f'{old.get("type")} with lr={old.get("lr")} is for others.',
        )
        draft.said.append(
            f'optimizer: {before} becomes {shown(new)}, of {recipe.source}, for batches of '
            f'{recipe.batch_size}'
        )
        base = draft.get('auto_scale_lr.base_batch_size')
        if base not in (None, recipe.batch_size):
            draft.set('auto_scale_lr.base_batch_size', recipe.batch_size)
        if old.get('lr'):
            _scale(draft, new['lr'] / old['lr'])
        _published_groups(draft, recipe, wrapper, foreign)
    else:
        _say_how_far(draft, old['lr'], new['lr'], before, recipe)
        if foreign:
            _published_groups(draft, recipe, wrapper, foreign)
    if from_random:
        _spare_nothing(draft)


def _say_how_far(draft: Draft, old: float, new: float, before: str, recipe: Recipe) -> None:
    ratio = max(old, new) / min(old, new)
    far = f', {ratio:.0f} times from the published {new:g} ({recipe.source})' if ratio > FAR else ''
    draft.said.append(f'optimizer: {before} kept{far}')


def _without_defaults(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """But for decay and rate, which one wants to see."""
    defaults = {
        name: p.default for name, p in inspect.signature(torch.optim.AdamW).parameters.items()
    }
    del defaults['lr'], defaults['weight_decay']
    return {key: v for key, v in optimizer.items() if key not in defaults or v != defaults[key]}


def shown(optimizer: Mapping[str, Any]) -> str:
    """Its type, rate and decay in words."""
    decay = f' decay={optimizer["weight_decay"]:g}' if optimizer.get('weight_decay') else ''
    return f'{optimizer.get("type")} lr={optimizer.get("lr")}{decay}'


def _scale(draft: Draft, ratio: float) -> None:
    """Rates of the schedule keep their distance to the optimizer's."""
    schedule = draft.get('param_scheduler')
    scaled: Any = copy.deepcopy(schedule)
    names = []
    for part in scaled if isinstance(scaled, list) else [scaled]:
        if not isinstance(part, dict) or 'Momentum' in str(part.get('type')):
            continue
        for key in ABSOLUTE:
            if part.get(key):
                part[key] = float(f'{part[key] * ratio:.3g}')
                names.append(f'{part["type"]}.{key}')
        if part.get('_scope_') == draft.get('default_scope'):
            part.pop('_scope_', None)  # it is looked for there
    if names:
        why = f'{" and ".join(names)} times {ratio:.3g}, as the rate itself.'
        draft.set('param_scheduler', scaled, why)
        draft.said.append(f'schedule: {why}')


def _published_groups(
    draft: Draft, recipe: Recipe, wrapper: Mapping[str, Any], foreign: bool
) -> None:
    """What parameters have rates and decays of their own: ours of the backbone's, the rest kept."""
    ours = recipe.optim_wrapper
    constructor = ours.get('constructor')
    own = dict(wrapper.get('paramwise_cfg') or {})
    groups = copy.deepcopy(dict(ours.get('paramwise_cfg') or {}))
    if foreign:  # its options mean nothing to another one, but for this
        own = {'custom_keys': own['custom_keys']} if own.get('custom_keys') else {}
        draft.said.append(
            f'decay: {wrapper["constructor"]} counts the layers of other backbones: '
            f'{constructor or PLAIN} in its place'
        )
    if 'decay_rate' in groups:  # ours of layers has few options, and wants each key to match
        own = {}
    merged: dict[str, Any] = {**own, **groups}
    keys = {**(own.get('custom_keys') or {}), **(groups.get('custom_keys') or {})}
    if keys:
        merged['custom_keys'] = keys
    if merged != dict(wrapper.get('paramwise_cfg') or {}):
        draft.set('optim_wrapper.paramwise_cfg', merged or None)
    if constructor or 'constructor' in wrapper:
        draft.set('optim_wrapper.constructor', constructor or PLAIN)


def _spare_nothing(draft: Draft) -> None:
    """Lower rates are for a backbone that has been trained: from random weights all learn alike."""
    groups = copy.deepcopy(dict(draft.get('optim_wrapper.paramwise_cfg') or {}))
    keys = groups.get('custom_keys') or {}
    spared = [
        key
        for key, options in keys.items()
        if re.fullmatch(r'backbone(\..*)?', key) and options.get('lr_mult', 1) < 1
    ]
    for key in spared:
        keys[key]['lr_mult'] = 1.0
    if groups.get('decay_rate', 1) < 1:
        groups['decay_rate'] = 1.0
        spared.append('decay_rate')
    if spared:
        why = 'Random weights: no layer has to be spared.'
        draft.set('optim_wrapper.paramwise_cfg', groups)
        if ('optim_wrapper',) not in draft.reasons:
            draft.explain('optim_wrapper', why)
        names = ', '.join(f'{key}.lr_mult' if key in keys else key for key in spared)
        draft.said.append(f'decay: {names} = 1: from random weights all learn alike')
