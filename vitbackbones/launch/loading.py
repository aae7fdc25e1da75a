"""Configs: finding, reading and changing them."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vitbackbones.errors import UserError, in_words
from vitbackbones.tasks import Task, task_of

from .demo import apply_demo, fit_schedule
from .options import apply_options

#: What classifiers are built with, of an extra.
EXTRA = 'mmpretrain'


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
        if EXTRA in str(error) and find_spec(EXTRA) is None:  # it inherits one of its configs
            raise UserError(_needs_extra(path, 'is not installed')) from error
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if 'model' not in cfg:
        raise UserError(f'config {path} describes no model, only: {", ".join(cfg) or "nothing"}')
    _require_packages(cfg, path)
    file = copy.deepcopy(cfg)
    if demo:
        apply_demo(cfg)
    if options:
        apply_options(cfg, options, file)
    if demo and not any(key.startswith('param_scheduler') for key in options or ()):
        fit_schedule(cfg)
    if cfg.get('default_scope') is None:  # as in configs whose types are classes
        cfg.default_scope = task_of(cfg.model).scope
    return cfg


def _require_packages(cfg: Config, path: Path) -> None:
    """That what an extra brings is there, before something asks for it by the name of a class.

    Raises:
        UserError: it is not, or it cannot be imported.
    """
    if task_of(cfg.model) is not Task.CLASSIFICATION:
        return
    if find_spec(EXTRA) is None:
        raise UserError(_needs_extra(path, 'is not installed'))
    try:
        for part in ('datasets', 'models'):  # as registries do when they look for a class
            importlib.import_module(f'{EXTRA}.{part}')
    except Exception as error:  # torchvision, which it imports, fails in ways of its own
        why = f'cannot be imported ({in_words(error)})'
        raise UserError(_needs_extra(path, why)) from error


def _needs_extra(path: Path, reason: str) -> str:
    return (
        f"config {path} is of a classifier, and {EXTRA} {reason}: pip install 'vitbackbones[cls]', "
        'with the torchvision that goes with your torch'
    )


def config_path(name: str) -> Path:
    """The file of ``name``: a path, or ``package::relative/path.py`` below its shipped configs."""
    package, separator, relative = name.rpartition('::')
    if separator:
        shipped = package_configs(package)
        if shipped is None:
            raise UserError(f'config {name!r}: there is no installed package {package!r}')
        folder, path = shipped, shipped / relative
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


def package_configs(package: str) -> Path | None:
    """The folder of the configs that an installed package ships; None if it is not installed."""
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], '.mim', 'configs')


def work_dir(cfg: Config, name: str, chosen: str | None, *, demo: bool) -> str:
    """Where a run writes: the option, else the config's own, else ``work_dirs/<config>[_demo]``."""
    default = f'work_dirs/{config_path(name).stem}{"_demo" if demo else ""}'
    return chosen or cfg.get('work_dir') or default
