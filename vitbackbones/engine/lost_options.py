"""Options that were set where nothing reads them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from .places import Node, holds, is_name, nodes_of, places_of, same, unscoped

#: Places that a message names, at most.
MOST_PLACES = 3

#: Read by mmengine or by mmdet's and mmseg's tools from a config, besides the Runner's arguments.
MORE_CONFIG_KEYS = frozenset(
    {
        'activation_checkpointing',
        'auto_scale_lr',
        'compile',
        'default_scope',
        'efficient_conv_bn_eval',
        'find_unused_parameters',
        'model_wrapper_cfg',
        'runner_type',
        'sync_bn',
        'tta_model',
        'tta_pipeline',
    }
)

#: What mmcv 1 read, by a key of its value that tells it from a variable, and what is read now.
_FORMER = {
    'checkpoint_config': ('interval', 'default_hooks.checkpoint'),
    'data': ('samples_per_gpu', 'train_dataloader, val_dataloader and test_dataloader'),
    'evaluation': ('interval', 'train_cfg.val_interval and val_evaluator'),
    'log_config': ('interval', 'default_hooks.logger'),
    'lr_config': ('policy', 'param_scheduler'),
    'optimizer': ('type', 'optim_wrapper.optimizer'),
    'optimizer_config': ('grad_clip', 'optim_wrapper.clip_grad'),
    'runner': ('type', 'train_cfg'),
}


def known_keys() -> set[str]:
    """The top-level keys of a config that something reads."""
    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return arguments | MORE_CONFIG_KEYS


def lost_options(cfg: Config) -> tuple[list[str], list[str]]:
    """Values that differ from the config's file at a top-level key that nothing reads.

    ``--cfg-options backbone.drop_path_rate=0.5`` of mmdet's and mmseg's own tools changes such a
    value, and silently nothing else: the variables of a config file are used while it is read. A
    program that sets a key of its own, or changes a variable, and what is read as well, is right.

    Returns:
        What can be nothing but a lost option, and what may be one: a single value, which a config
        can also take from the clock, and a new key that is only spelled like one that is read.
    """
    written = _as_written(cfg)
    if written is None:
        return [], []
    known = known_keys() | {'custom_imports'}  # `vitbackbones train` adds its own
    nodes = nodes_of({key: value for key, value in cfg.items() if key in known})
    lost: list[str] = []
    perhaps: list[str] = []
    for key, value in cfg.items():
        if key in known or (key in written and written[key] == value):
            continue
        if value is None or _is_used(key, unscoped(value), nodes):
            continue
        certain = isinstance(value, (Mapping, list))
        if key in written:
            places = places_of(written[key], key, nodes)[:MOST_PLACES]
            hint = f'; what came of it is at {", ".join(places)}' if places else ''
            if not places and key in _parts(cfg):
                hint = f'; did you mean {_parts(cfg)[key]}?'
            (lost if certain else perhaps).append(
                f'{key} was changed from what {cfg.filename} says, but it is a variable of that '
                f'file, which nothing reads afterwards{hint}'
            )
            continue
        place = _parts(cfg).get(key) or (_FORMER[key][1] if key in _FORMER else None)
        near = [place] if place else difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near:
            (lost if certain and place else perhaps).append(
                f'{key}={_short(value)}: nothing reads {key!r}; did you mean {near[0]}?'
            )
    return lost, perhaps


def former_keys(cfg: Config) -> Iterator[str]:
    """Keys that were read by mmcv 1, and are by nothing now."""
    for key, (mark, place) in _FORMER.items():
        value = cfg.get(key)
        if not isinstance(value, Mapping) or mark not in value:
            continue
        if key != 'optimizer':  # mmseg's configs have it as a variable
            yield f'the config has {key}, which nothing reads since mmengine: use {place}'


def _as_written(cfg: Config) -> Config | None:
    """The config's file as it is; None where it cannot be told."""
    if not cfg.filename or not Path(cfg.filename).is_file():
        return None
    try:
        written = Config.fromfile(
            cfg.filename, import_custom_modules=False, format_python_code=False
        )
    except Exception:  # a config is a program of anyone's; it was changed since it was read
        return None
    return written if written.text == cfg.text else None


def _is_used(key: str, value: Any, nodes: Sequence[Node]) -> bool:
    """Whether ``value``, or under the same name more than it, stands in what is read."""
    return any(
        same(node, value) or (is_name(path, key) and holds(node, value)) for path, node in nodes
    )


def _parts(cfg: Config) -> dict[str, str]:
    """The parts of the model by their names, the detector inside a semi-supervised one too."""
    found: dict[str, str] = {}
    waiting = [('model', cfg.get('model'))]
    while waiting:
        path, node = waiting.pop(0)
        for key, value in node.items() if isinstance(node, Mapping) else ():
            if isinstance(value, (Mapping, list)):
                found.setdefault(key, f'{path}.{key}')
                waiting.append((f'{path}.{key}', value))
    return found


def _short(value: Any) -> str:
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else f'{text[:60]}...'
