"""Where in a config a value stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = tuple[str, Any]


def nodes_of(read: Mapping[str, Any]) -> list[Node]:
    """All that stands in ``read``, with dotted paths."""
    return [pair for key, node in read.items() for pair in _below(unscoped(node), key)]


def unscoped(node: Any) -> Any:
    """A copy without the mark of inheritance by name, which not all uses of a variable have."""
    if isinstance(node, dict):
        return {key: unscoped(value) for key, value in node.items() if key != '_scope_'}
    return type(node)(map(unscoped, node)) if type(node) in (list, tuple) else node


def is_name(path: str, name: str) -> bool:
    """Whether a dotted path ends with ``name``."""
    return path.rpartition('.')[2] == name


def places_of(value: Any, name: str, nodes: list[Node]) -> list[str]:
    """Where the value of a variable stands; numbers, None and the like only under its name.

    Such a value stands in many places that have nothing to do with the variable.
    """
    value = unscoped(value)
    common = value is None or isinstance(value, (bool, int, float))
    return [
        path for path, node in nodes if same(node, value) and (not common or is_name(path, name))
    ]


def same(node: Any, value: Any) -> bool:
    """Equal, and of one type: True is no 1."""
    return type(node) is type(value) and bool(node == value)


def holds(node: Any, value: Any) -> bool:
    """Whether a dict was made of another one and more, as ``dict(**_base_.backbone, ...)`` is."""
    if not isinstance(value, dict) or not isinstance(node, dict) or not value:
        return False
    return all(key in node and node[key] == each for key, each in value.items())


def _below(node: Any, path: str) -> Iterator[Node]:
    """``node`` and everything in it."""
    yield path, node
    pairs: Any = ()
    if isinstance(node, dict):
        pairs = node.items()
    elif isinstance(node, (list, tuple)):
        pairs = enumerate(node)
    for key, value in pairs:
        yield from _below(value, f'{path}.{key}')
