"""``--cfg-options``: single values of a config, changed before anything is built from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from vitbackbones.data.nodes import type_name
from vitbackbones.engine.lost_options import MOST_PLACES, known_keys
from vitbackbones.engine.places import holds, is_name, nodes_of, places_of, unscoped
from vitbackbones.errors import UserError


def apply_options(cfg: Config, options: Mapping[str, Any], file: Config) -> None:
    """Change ``cfg`` in place; a list in the place of a tuple becomes one.

    Args:
        options: values by dotted key.
        file: the config as its file has it, whose variables point to what is read.

    Raises:
        UserError: nothing reads a key, or it cannot be set.
    """
    known = known_keys()
    for key in options:
        first, *rest = key.split('.')
        if first in known:
            continue
        near = difflib.get_close_matches(first, known)
        hint = f'did you mean {near[0]}?' if near else f'choose from {", ".join(sorted(known))}'
        if first in file:  # `data_root` and the like are read while the file is, not afterwards
            places = ['.'.join([place, *rest]) for place in _places(file, first)]
            where = (
                f'at {", ".join(places)}'
                if places
                else (
                    'nowhere under that name; a config that inherits this one can set what is '
                    'made of it'
                )
            )
            hint = f'it is a variable of the config file; its value is {where}'
        raise UserError(f'--cfg-options {key}: nothing reads {first!r}; {hint}')
    _check_length(cfg, options)
    for key in options:
        _name_weights(cfg, key)
    values = {key: _like(_at(cfg, key.split('.')), value) for key, value in options.items()}
    try:
        cfg.merge_from_dict(values)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f'--cfg-options {dict(options)} cannot be applied: {error}') from error


def _check_length(cfg: Config, options: Mapping[str, Any]) -> None:
    """That the length of training is given in what its loop counts.

    Raises:
        UserError: it is not.
    """
    loop = dict(cfg.get('train_cfg') or {})
    loop.update((key.removeprefix('train_cfg.'), value) for key, value in options.items())
    usual = 'EpochBasedTrainLoop' if loop.get('by_epoch', True) else 'IterBasedTrainLoop'
    for kind, counts, right, wrong in (
        ('EpochBasedTrainLoop', 'epochs', 'max_epochs', 'max_iters'),
        ('IterBasedTrainLoop', 'iterations', 'max_iters', 'max_epochs'),
    ):
        key = f'train_cfg.{wrong}'
        if key in options and kind == (type_name(loop) or usual):
            raise UserError(
                f'--cfg-options {key}={options[key]}: this training counts {counts}, set '
                f'train_cfg.{right}'
            )


def _name_weights(cfg: Config, key: str) -> None:
    """Let a file be named where there is none: a checkpoint of no ``init_cfg`` is a whole one."""
    owner, found, _ = key.rpartition('.init_cfg.checkpoint')
    node = _at(cfg, owner.split('.'))
    if found and isinstance(node, dict) and node.get('init_cfg') is None:
        node['init_cfg'] = ConfigDict(type='Pretrained')


def _places(cfg: Config, name: str) -> list[str]:
    """Where the value of a file's variable stands in what is read; else, what has its name.

    Three places at most.
    """
    value, known = unscoped(cfg[name]), known_keys()
    nodes = nodes_of({key: cfg[key] for key in cfg if key in known})
    found = (
        places_of(value, name, nodes)
        or [path for path, node in nodes if holds(node, value)]
        or [path for path, _ in nodes if is_name(path, name)]
    )
    return found[:MOST_PLACES]


def _at(node: Any, keys: Sequence[str]) -> Any:
    """What stands at a dotted path, None if nothing does."""
    for key in keys:
        if isinstance(node, (list, tuple)):
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        elif isinstance(node, (Config, dict)):
            node = node.get(key)
        else:
            return None
    return node


def _like(old: Any, new: Any) -> Any:
    """``new`` with tuples where ``old`` has them: on a command line lists are easier to write."""
    if not isinstance(old, (list, tuple)) or not isinstance(new, list):
        return new
    tuples = bool(old) and all(isinstance(each, tuple) for each in old)
    parts = [tuple(each) if tuples and isinstance(each, list) else each for each in new]
    return tuple(parts) if isinstance(old, tuple) else parts
