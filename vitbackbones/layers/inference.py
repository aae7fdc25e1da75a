"""When a faster way through a layer may be taken: nobody must be able to tell."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from types import NoneType
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

M = TypeVar('M', bound=nn.Module)


#: Bytes of freed memory that the process keeps for the next pass, and up to which size a block is
#: kept at all: the most that glibc allows.
KEPT = 512 << 20
LARGEST = 32 << 20

# mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@functools.cache
def keep_freed_memory() -> None:
    """Let the process keep memory that a pass frees for the next one, where it has glibc.

    glibc maps large blocks one by one and gives them back to the system when they are freed, as it
    does with what is free at the end of its heap. What the next pass needs is then mapped anew,
    page by page, for up to a quarter of its time. Whoever has set either limit in the environment
    keeps it.
    """
    if sys.platform != 'linux' or 'MALLOC_TRIM_THRESHOLD_' in os.environ:
        return
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if 'MALLOC_MMAP_THRESHOLD_' in os.environ or re.search('(trim|mmap)_threshold', tunables):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'gnu_get_libc_version'):  # others give these numbers other meanings
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


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
    # Looked up where they lie: a network asks some hundred times per picture.
    own = vars(module)
    return (
        type(module) is kind
        and type(own['_parameters'].get('weight')) in (nn.Parameter, NoneType)
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
