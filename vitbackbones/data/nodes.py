"""What the ``type`` of a part of a config stands for: text with or without a scope, or a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry


def type_name(node: Mapping[str, Any] | None) -> str:
    """The name of the class, without scope and module; '' if the part names none."""
    kind = (node or {}).get('type') or ''
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]


def base_names(node: Mapping[str, Any], registry: Registry, scope: str | None) -> set[str]:
    """The names of the class and its bases; none if the registry does not know it."""
    cls = node.get('type')
    if isinstance(cls, str):
        with registry.switch_scope_and_registry(node.get('_scope_', scope)) as chosen:
            cls = chosen.get(cls)
    return {base.__name__ for base in getattr(cls, '__mro__', ())}
