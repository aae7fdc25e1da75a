"""Peak memory of a computation.

On a GPU it is what torch's allocator reports. On a CPU it is the highest sum of what tensors and
the temporaries of torch's operators hold at a time, from the profiler's record of every allocation:
exact and the same in every run, where the size of the process is neither. Scratch memory of the
matrix libraries (oneDNN, MKL) does not pass through torch's allocator and is left out on a CPU.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from .timing import synchronize


def saved_memory(net: nn.Module, images: Tensor) -> int:
    """Bytes that the backward pass of ``net`` keeps of one forward pass, weights excluded.

    Memory that several tensors share counts once.
    """
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        saved[value.untyped_storage().data_ptr()] = value  # and so it is not given to another
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        maps = net(images)
    del maps
    return sum(v.untyped_storage().nbytes() for p, v in saved.items() if p not in weights)


def peak_memory(run: Callable[[], Any], device: torch.device | str = 'cpu') -> int:
    """Bytes at the peak of one call of ``run`` beyond those that were held when it began.

    Weights and inputs that exist before are not in it, see :func:`weight_memory`; gradients and
    the state of an optimiser are, if ``run`` makes them.
    """
    gc.collect()
    if torch.device(device).type == 'cuda':
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    profiler = profile(profile_memory=True)
    with _silent():
        profiler.__enter__()
    try:
        run()
    finally:
        with _silent():
            profiler.__exit__(None, None, None)
    results: Any = profiler.kineto_results  # its types say less than it has
    changes = (event.nbytes() for event in results.events() if event.name() == '[memory]')
    return max(accumulate(changes, initial=0))


def weight_memory(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def _silent() -> Iterator[None]:
    """torch's profiler reports its start and end on standard error, past Python's own."""
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
