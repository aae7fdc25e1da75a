"""Counting operations, fused attention included.

FLOPs are two per multiply-add, as torch counts them. Tables of papers give the number of
multiply-adds, and most of them call it FLOPs or GFLOPs: compare those with half of a figure here.
As in such tables, matrix products and convolutions are counted, and norms, activations, additions,
resizing, and operators of mmcv (RoIAlign, deformable convolution and attention) are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Kernels behind scaled_dot_product_attention that torch 2.13 passes over without a word.
UNCOUNTED = (
    '_scaled_dot_product_flash_attention_for_cpu',
    '_scaled_dot_product_fused_attention_overrideable',
)


@dataclass(frozen=True)
class Flops:
    """``parts`` has a figure for every child of the model; what is in none of them is left out.

    ``modules`` has one for every module that was called, by its dotted name.
    """

    total: int
    parts: dict[str, int]
    modules: dict[str, int]


def count_flops(run: Callable[[], Any], model: nn.Module | None = None) -> Flops:
    """The operations of one call of ``run``, forward and, if it has one, backward.

    Args:
        model: which ``run`` calls, for the parts.
    """
    mapping = {
        getattr(torch.ops.aten, name): attention_flops
        for name in UNCOUNTED
        if hasattr(torch.ops.aten, name)
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, _no_fast_path():
        run()
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}

    def part(module: nn.Module, name: str) -> int:
        if name in by_module:
            return by_module[name]
        # Not called itself, as the RoI head of a detector: what it holds was.
        return sum(part(child, f'{name}.{key}') for key, child in module.named_children())

    parts = {}
    if model is not None:
        root = type(model).__name__
        parts = {key: part(child, f'{root}.{key}') for key, child in model.named_children()}
    modules = {name.partition('.')[2]: flops for name, flops in by_module.items() if '.' in name}
    return Flops(total=counter.get_total_flops(), parts=parts, modules=modules)


def attention_flops(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *args: Any,
    out_shape: Any = None,
    **kwargs: Any,
) -> int:
    """Of shapes (B, heads, N, d), (B, heads, M, d), (B, heads, M, d'): the two products."""
    b, heads, n, d = query
    return 2 * b * heads * n * key[2] * (d + value[3])


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """nn.MultiheadAttention as operators that are counted, not as one that is not."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
