"""Whether the fast ways through a network may be taken: decided once per pass, by the backbone.

They may where nobody can tell: in :func:`unobserved_cpu_inference`, while the
:class:`Signature` of the network holds. Then layers are what they were built as, so that their
weights may be read beside them, and nobody holds what they return, so that it may be overwritten.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

T = TypeVar('T')
M = TypeVar('M', bound=nn.Module)

#: Results that are kept between passes: so many, for maps of so many positions at most.
CACHE_ENTRIES, CACHE_MAX_ELEMENTS = 16, 1 << 17


class _Door(threading.local):
    is_open = False


_door = _Door()


@contextlib.contextmanager
def fast_paths(allowed: bool) -> Iterator[None]:
    """Open the door for this thread, or close it: two threads may share a network."""
    before, _door.is_open = _door.is_open, allowed
    try:
        yield
    finally:
        _door.is_open = before


def allowed() -> bool:
    """Whether the fast ways may be taken; who compiles a part of a network gets the plain ones."""
    return not torch.compiler.is_compiling() and _door.is_open


def unobserved_cpu_inference(x: Tensor) -> bool:
    """Whether the numbers alone count: float32 on a CPU, no gradients, autocast or tracing."""
    return (
        type(x) is Tensor  # others may have their own idea of every operation
        and x.is_cpu
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not global_hooks._global_forward_hooks
        and not global_hooks._global_forward_pre_hooks
    )


def kept(make: Callable[..., T], *key: Any, elements: int) -> T:
    """``make(*key)``, kept from one fast pass to the next unless it is of too many elements."""
    return (_kept if allowed() and elements <= CACHE_MAX_ELEMENTS else _made)(make, *key)


def _made(make: Callable[..., T], *key: Any) -> T:
    return make(*key)


_kept = functools.lru_cache(CACHE_ENTRIES)(_made)

# What torch shipped, taken before anybody can put something else in its place.
_SHIPPED = {
    cls: cls.forward
    for cls in vars(nn).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module)
}
_CALL, _NONE = nn.Module.__call__, nn.Module.forward
_OURS = __name__.partition('.')[0] + '.'
_PARAMETERS = {nn.Parameter, NoneType}


class Signature:
    """What a network was built as, so that a pass can tell whether it still is.

    Altered are a module of another type, a hook or a ``forward`` on an instance or a class, and a
    parameter that is none any more: adapters, quantisers, pruning and the like do these. Whoever
    takes an alteration back has the network that was built. The network's own type and hooks do not
    count: they see its input and its outputs alone.

    Args:
        types: of all modules in the network, in their order.
    """

    def __init__(self, types: Sequence[type[nn.Module]]) -> None:
        self._types = [*types]
        self._forwards = {cls: cls.forward for cls in self._types}
        self._known = all(map(_is_known, self._forwards))
        self._record: _Record | None = None

    @classmethod
    def of(cls, network: nn.Module) -> Signature:
        """The signature of a network as it is now."""
        return cls([*map(type, _inner_modules(network))])

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return Signature(self._types)  # the record is of the network that it was made for

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self._types,)

    def holds(self, network: nn.Module) -> bool:
        """Whether ``network`` is what it was built as, of layers that torch or we have written."""
        if not self._known or nn.Module.__call__ is not _CALL:
            return False
        record = self._record
        if record is None or not self._is_current(record):
            record = self._record = self._look_at(network)
        return (
            record is not None
            and not any(record.hooks)
            and not any(map(operator.contains, record.attributes, itertools.repeat('forward')))
            and list(itertools.chain.from_iterable(record.parameters)) == record.names
            and _PARAMETERS.issuperset(map(type, _values(record.parameters)))
            and all(cls.forward is forward for cls, forward in self._forwards.items())
        )

    def _is_current(self, record: _Record) -> bool:
        return (
            list(map(type, record.modules)) == self._types
            and list(_values(record.children)) == record.child_modules
        )

    def _look_at(self, network: nn.Module) -> _Record | None:
        modules = _inner_modules(network)
        if [*map(type, modules)] != self._types:
            return None
        children = [m._modules for m in (network, *modules) if m._modules]
        parameters = [m._parameters for m in (network, *modules) if m._parameters]
        return _Record(
            modules=modules,
            attributes=[*map(vars, modules)],
            hooks=[hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)],
            children=children,
            child_modules=[*_values(children)],
            parameters=parameters,
            names=[*itertools.chain.from_iterable(parameters)],
        )


class _Record(NamedTuple):
    """A network in flat lists: comparing them is all that a pass can afford."""

    modules: list[nn.Module]
    attributes: list[dict[str, Any]]
    hooks: list[dict[int, Any]]
    children: list[dict[str, nn.Module | None]]
    child_modules: list[nn.Module | None]
    parameters: list[dict[str, nn.Parameter | None]]
    names: list[str]


def _is_known(cls: type[nn.Module]) -> bool:
    if cls in _SHIPPED:
        return cls.forward is _SHIPPED[cls]
    own = cls.forward is _NONE or cls.forward.__module__.startswith(_OURS)
    return own and cls.__module__.startswith(_OURS)


def is_unmodified(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether it is a ``kind`` that computes what its parameters say, and that nobody watches."""
    own = vars(module)
    return (
        type(module) is kind
        and _is_known(kind)
        and 'forward' not in own
        and not own['_forward_hooks']
        and not own['_forward_pre_hooks']
        and 'weight' not in own
        and 'weight' not in own['_buffers']
        and _PARAMETERS.issuperset(map(type, own['_parameters'].values()))
    )


def _inner_modules(network: nn.Module) -> list[nn.Module]:
    return [*network.modules()][1:]


def _values(dicts: list[dict[str, T]]) -> Iterator[T]:
    return itertools.chain.from_iterable(map(dict.values, dicts))
