"""The names of classes in a config, and whether mmengine will find them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import mmcv.ops
import mmengine.registry
from mmengine.config import Config
from mmengine.runner import Runner


def lost_types(cfg: Config) -> list[tuple[str, str, str]]:
    """Path, scope and name of every ``type`` that is in no registry when its turn comes."""
    # The others are variables of the file.
    used = {key: cfg[key] for key in inspect.signature(Runner.__init__).parameters if key in cfg}
    return [(path, *name) for path, *name in _types(used, cfg.default_scope) if not _found(*name)]


def _types(node: Any, scope: str, path: str = '') -> Iterator[tuple[str, str, str]]:
    if isinstance(node, dict):
        scope = node.get('_scope_') or scope
        if isinstance(node.get('type'), str):
            yield path, scope, node['type']
        for key, value in node.items():
            yield from _types(value, scope, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _types(value, scope, f'{path}.{i}')


@cache
def _found(scope: str, name: str) -> bool:
    """Whether any registry knows a name in a scope, or mmcv's operators, which are looked up."""
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, mmengine.registry.Registry):
            with registry.switch_scope_and_registry(scope) as chosen:
                if chosen.get(name) is not None:
                    return True
    return hasattr(mmcv.ops, name)
