"""When a faster way through a layer may be taken: nobody must be able to tell."""

from __future__ import annotations

from types import NoneType
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

M = TypeVar('M', bound=nn.Module)


def lean(x: Tensor) -> bool:
    """Whether nothing but the numbers counts: inference in float32 on a CPU, with none to watch."""
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not hooks._global_forward_hooks
        and not hooks._global_forward_pre_hooks
        and not _autocast()
    )


def _autocast() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # torch < 2.4
        return torch.is_autocast_cpu_enabled()


def is_plain(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether it is a ``kind`` that computes what its weight says.

    Adapters, quantisers and the like change the type, the weight or ``forward``, or have hooks.
    """
    if type(module) is not kind:
        return False
    # Looked up where they lie: a network asks some hundred times per picture.
    own = vars(module)
    return (
        type(own['_parameters'].get('weight')) in (nn.Parameter, NoneType)
        and 'weight' not in own
        and 'weight' not in own['_buffers']
        and 'forward' not in own
        and not own['_forward_hooks']
        and not own['_forward_pre_hooks']
    )


def add_to(x: Tensor, y: Tensor, *branch: nn.Module, scale: Tensor | float = 1.0) -> Tensor:
    """``x + scale * y``, in the memory of ``y`` if nobody else looks there.

    Args:
        branch: the modules that may have returned ``y``.
        scale: a number, or one per channel, the last axis.
    """
    if isinstance(scale, Tensor):
        return torch.addcmul(x, scale, y)
    if (
        scale != 1
        or torch.is_grad_enabled()
        or y.dtype != x.dtype
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or any(map(_is_watched, branch))
    ):
        return x.add(y, alpha=scale)
    return y.add_(x)


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook may be handed what ``module`` returns: its own, or one of its last layer's.

    One before ``forward`` is, where the module returns what it is given.
    """
    while not module._forward_hooks and not module._forward_pre_hooks:
        if not module._modules:
            return False
        last = next(reversed(module._modules.values()))
        if last is None:
            return False
        module = last
    return True
