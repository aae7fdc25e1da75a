"""Configs: finding, reading and changing them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vitbackbones.engine.lost_options import known_keys
from vitbackbones.errors import UserError

from .demo import apply_demo, fit_schedule


def load_config(
    name: str, options: Mapping[str, Any] | None = None, *, demo: bool = False
) -> Config:
    """Read a config, lay the demo over it if asked, then apply ``--cfg-options``.

    Raises:
        UserError: the file is missing or fails, or an option cannot be applied.
    """
    path = config_path(name)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program of the user's: whatever it raises is theirs
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if 'model' not in cfg:
        raise UserError(f'config {path} describes no model, only: {", ".join(cfg) or "nothing"}')
    if demo:
        apply_demo(cfg)
    if options:
        _apply_options(cfg, options)
    if demo and not any(key.startswith('param_scheduler') for key in options or ()):
        fit_schedule(cfg)
    cfg.setdefault('default_scope', 'mmdet')
    return cfg


def config_path(name: str) -> Path:
    """The file of ``name``: a path, or ``package::relative/path.py`` below its shipped configs."""
    package, separator, relative = name.rpartition('::')
    if separator:
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f'config {name!r}: there is no installed package {package!r}')
        folder = Path(spec.submodule_search_locations[0], '.mim', 'configs')
        path = folder / relative
    else:
        path = Path(name)
        folder = path.parent
    if path.is_file():
        return path
    pattern = '**/*.py' if separator else '*.py'
    choices = sorted(p.relative_to(folder).as_posix() for p in folder.glob(pattern))
    near = difflib.get_close_matches(relative if separator else path.name, choices, cutoff=0.5)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    raise UserError(f'there is no config file {path}{hint}')


def work_dir(cfg: Config, name: str, chosen: str | None, *, demo: bool) -> str:
    """Where a run writes: the option, else the config's own, else ``work_dirs/<config>[_demo]``."""
    default = f'work_dirs/{config_path(name).stem}{"_demo" if demo else ""}'
    return chosen or cfg.get('work_dir') or default


def _apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    known = known_keys()
    for key in options:
        first = key.split('.')[0]
        if first in known:
            continue
        near = difflib.get_close_matches(first, known)
        hint = f'did you mean {near[0]}?' if near else f'choose from {", ".join(sorted(known))}'
        if first in cfg:  # `data_root` and the like are read while the file is, not afterwards
            places = [path for path, value in _flat(cfg, '') if value == cfg[first]]
            hint = f'it is a variable of the config file; its value is at {", ".join(places)}'
        raise UserError(f'--cfg-options {key}: nothing reads {first!r}; {hint}')
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f'--cfg-options {dict(options)} cannot be applied: {error}') from error


def _flat(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value below ``node`` that is no container, with its dotted path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        place = f'{path}.{key}' if path else str(key)
        if isinstance(value, (dict, list)):
            yield from _flat(value, place)
        elif path:
            yield place, value
