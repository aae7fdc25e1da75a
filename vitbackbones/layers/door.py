"""Whether the fast ways through a network may be taken: decided once per pass, by the backbone.

They may where nobody can tell: :func:`unobserved_on_cpu`, while the :class:`Signature` of the
network holds. Then layers are what they were built as, so that their weights may be read next to
them, and nobody holds what they return. Without gradients that may be overwritten
(:func:`allowed`); with them other backward passes may be taken (:func:`allowed_in_training`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as global_hooks

T = TypeVar('T')
M = TypeVar('M', bound=nn.Module)

#: Results that are cached between passes: so many, for maps of so many positions at most.
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
    return not torch.compiler.is_compiling() and _door.is_open and not torch.is_grad_enabled()


def allowed_in_training() -> bool:
    """Whether backward passes of our own may be taken, which keep less."""
    return not torch.compiler.is_compiling() and _door.is_open and torch.is_grad_enabled()


def unobserved_on_cpu(x: Tensor) -> bool:
    """Whether numbers alone count: float32 on a CPU, no autocast, tracing, modes, transforms."""
    return (
        type(x) is Tensor  # others may have their own idea of every operation
        and x.is_cpu
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
        and not global_hooks._global_forward_hooks
        and not global_hooks._global_forward_pre_hooks
        and not (torch.is_grad_enabled() and _is_differentiated_otherwise())
    )


def _is_differentiated_otherwise() -> bool:
    """Whether gradients are watched everywhere, or are not those of one backward pass."""
    return bool(
        global_hooks._global_backward_hooks
        or global_hooks._global_backward_pre_hooks
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def cached(make: Callable[..., T], *key: Any, elements: int) -> T:
    """``make(*key)``, cached from one fast pass to the next unless it is of too many elements."""
    return (_cached if allowed() and elements <= CACHE_MAX_ELEMENTS else _made)(make, *key)


def _made(make: Callable[..., T], *key: Any) -> T:
    return make(*key)


_cached = functools.lru_cache(CACHE_ENTRIES)(_made)

_PARAMETERS = {nn.Parameter, NoneType}
#: Methods of a class of layers that say what it computes, and those that all of them share.
_METHODS = operator.attrgetter('forward', '__call__', '_call_impl')


def _functions() -> tuple[Any, ...]:
    """What the layers of torch call."""
    return F.linear, F.conv2d, F.layer_norm, F.gelu, nn.Conv2d._conv_forward


_FUNCTIONS = _functions()  # as torch ships them
_FOLDERS = {
    'torch.nn.': os.path.dirname(nn.__file__),
    'vitbackbones.': os.path.dirname(os.path.dirname(__file__)),
}


class Signature:
    """What a network was built as, so that a pass can tell whether it still is.

    Altered are a module of another type, a hook or a ``forward`` on an instance or a class, and a
    parameter that is none any more: adapters, quantisers, pruning and the like do these. Whoever
    takes an alteration back has the network that was built. The network's own type and hooks do not
    count: they see its input and its outputs alone.

    Args:
        types: of all modules in the network, in their order.
        names: of the parameters that each of them has, and at last the network itself.
    """

    def __init__(
        self, types: Sequence[type[nn.Module]], names: Sequence[frozenset[str]] = ()
    ) -> None:
        self._types = [*types]
        self._names = [*names]
        self._methods = {cls: _METHODS(cls) for cls in self._types}
        self._known = all(map(_is_known, self._methods))
        self._record: _Record | None = None

    @classmethod
    def of(cls, network: nn.Module) -> Signature:
        """The signature of a network as it is now."""
        modules = _inner_modules(network)
        return cls([*map(type, modules)], _parameter_names([*modules, network]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return Signature(self._types, self._names)  # the record is of the network that it was of

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self._types, self._names)

    def holds(self, network: nn.Module) -> bool:
        """Whether ``network`` is what it was built as, of layers that torch or we have written."""
        if not self._known or _functions() != _FUNCTIONS:
            return False
        record = self._record
        if record is None or not self._is_current(record, network):
            record = self._record = self._look_at(network)
        hooks = (*_HOOKS, *_BACKWARD_HOOKS) if torch.is_grad_enabled() else _HOOKS
        return (
            record is not None
            and not any(any(map(of, record.attributes)) for of in hooks)
            and not any(map(operator.contains, record.attributes, itertools.repeat('forward')))
            and not any(map(operator.contains, record.attributes, itertools.repeat(_COMPILED)))
            and _PARAMETERS.issuperset(
                map(type, _values(_OWN_PARAMETERS, [vars(network), *record.holders]))
            )
            and all(_METHODS(cls) == methods for cls, methods in self._methods.items())
        )

    def _is_current(self, record: _Record, network: nn.Module) -> bool:
        return (
            record.network() is network
            and list(map(type, record.modules)) == self._types
            and list(_values(_CHILDREN, [vars(network), *record.parents])) == record.children
            and _names([vars(network), *record.holders]) == record.names
        )

    def _look_at(self, network: nn.Module) -> _Record | None:
        modules = _inner_modules(network)
        if [*map(type, modules)] != self._types:
            return None
        if _parameter_names([*modules, network]) != self._names:
            return None
        parents = [vars(m) for m in modules if m._modules]
        holders = [vars(m) for m in modules if m._parameters]
        return _Record(
            network=weakref.ref(network),
            modules=modules,
            attributes=[*map(vars, modules)],
            parents=parents,
            children=[*_values(_CHILDREN, [vars(network), *parents])],
            holders=holders,
            names=_names([vars(network), *holders]),
        )


_HOOKS = operator.itemgetter('_forward_hooks'), operator.itemgetter('_forward_pre_hooks')
_BACKWARD_HOOKS = operator.itemgetter('_backward_hooks'), operator.itemgetter('_backward_pre_hooks')
_CHILDREN, _OWN_PARAMETERS = map(operator.itemgetter, ('_modules', '_parameters'))
_COMPILED = '_compiled_call_impl'  # what Module.compile() sets


class _Record(NamedTuple):
    """A network in flat lists: comparing them is all that a pass can afford.

    Nothing in it leads back to the network, which would outlive its last user then.
    """

    network: weakref.ref[nn.Module]
    modules: list[nn.Module]
    attributes: list[dict[str, Any]]  # of all modules
    parents: list[dict[str, Any]]  # attributes of those with children
    children: list[nn.Module | None]  # of the network, then of these
    holders: list[dict[str, Any]]  # attributes of those with parameters
    names: list[str]  # of parameters: the network's own, then those of these


def _is_known(cls: type[nn.Module]) -> bool:
    """Whether class and methods are written in torch's layers or here, not patched or replaced."""
    return any(map(cls.__module__.startswith, _FOLDERS)) and all(
        _file_of(method).startswith((*_FOLDERS.values(),)) for method in _METHODS(cls)
    )


def _file_of(method: Any) -> str:
    return method.__code__.co_filename if hasattr(method, '__code__') else ''


def _parameter_names(modules: list[nn.Module]) -> list[frozenset[str]]:
    return [frozenset(module._parameters) for module in modules]


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


def _names(attributes: list[dict[str, Any]]) -> list[str]:
    return [*itertools.chain.from_iterable(map(_OWN_PARAMETERS, attributes))]


def _values(
    get: Callable[[dict[str, Any]], dict[str, T]], attributes: list[dict[str, Any]]
) -> Iterator[T]:
    return itertools.chain.from_iterable(map(dict.values, map(get, attributes)))
