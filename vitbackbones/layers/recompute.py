"""Blocks that are computed twice instead of kept: less memory in training, for more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .door import allowed_in_training, fast_paths


def recompute(block: nn.Module, *args: Any) -> Any:
    """``block(*args)``, computed once more in the backward pass instead of kept.

    Statistics of BatchNorms are updated by the first computation alone. Both go the same way, as
    the door (:mod:`.door`) is when the first begins.
    """
    again = _Again(block, allowed_in_training())
    return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again))


def recompute_if_allowed(block: nn.Module, *args: Any) -> Any:
    """``block(*args)``, in training on a CPU recomputed: for what is cheap beside what it keeps."""
    return recompute(block, *args) if allowed_in_training() else block(*args)


class _Again:
    """What goes on while a block is computed again, be it more than once."""

    def __init__(self, block: nn.Module, is_open: bool) -> None:
        self._block, self._is_open = block, is_open

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(_unchanged_statistics(self._block))
            stack.enter_context(fast_paths(self._is_open))
            self._stack = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


@contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let training-mode BatchNorms normalise by the batch without updating their statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    saved = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
