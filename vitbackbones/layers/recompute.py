"""Blocks that are computed twice instead of kept: less memory in training, for more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, *args: Any) -> Any:
    """``block(*args)``, computed once more in the backward pass instead of kept.

    Statistics of BatchNorms are updated by the first computation alone.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_statistics(block)

    return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)


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
