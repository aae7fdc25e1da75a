"""Fused attention with a bias that is learned: a relative position bias out of a table.

A table (side * side, heads) with ``side = 2 * ws - 1`` holds, row by row, the bias for each offset
between a query and a key of a window of ws x ws positions (Swin, arXiv 2103.14030, section 3.2).
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from .door import allowed

#: Elements of attention matrices that are made at a time in the backward pass, to stay in the
#: cache. Three such slices are held at a time, and one is no less than a head of a window.
BACKWARD_ELEMENTS = 1 << 19
#: Biases of one table that are cached between passes: so many, and none of more elements.
BIAS_CACHE_ENTRIES, BIAS_CACHE_MAX_ELEMENTS = 4, 1 << 22

Build = functools.partial[Tensor]


class _BiasCache:
    """Biases that were made of learned tables, from one pass to the next; no part of a module."""

    def __init__(self) -> None:
        self._biases = WeakIdKeyDictionary()
        self._lock = threading.Lock()

    def __getitem__(self, table: Tensor) -> dict[Any, tuple[Tensor, Tensor]]:
        """What is there of a table: {how it is made: (values of the table, bias)}."""
        return self._biases.get(table, {})

    def forget(self, table: Tensor) -> None:
        """Drop what is there of a table."""
        if self._biases:
            with self._lock:
                self._biases.pop(table, None)

    def get(self, table: Tensor, build: Build) -> Tensor:
        """``build(table)``, made again when the values of ``table`` are others.

        EMA hooks and others write to parameters in ways that leave no trace in torch's version
        counter.
        """
        key = (build.func, build.args, *build.keywords.items())
        with self._lock:
            known, bias = self[table].get(key, (table[:0], table))
        if known.dtype != table.dtype or not torch.equal(known, table):
            known, bias = table.clone(), build(table)
        if bias.numel() <= BIAS_CACHE_MAX_ELEMENTS:
            with self._lock:
                own = self._biases.setdefault(table, {})
                own.pop(key, None)
                own[key] = known, bias  # the latest last
                if len(own) > BIAS_CACHE_ENTRIES:
                    own.pop(next(iter(own)))
        return bias


_cache = _BiasCache()


def attention_with_bias(q: Tensor, k: Tensor, v: Tensor, table: Tensor, build: Build) -> Tensor:
    """``softmax(q k^T / sqrt(d) + build(table)) v`` without storing attention matrices.

    Args:
        q: (N, heads, T, d).
        k: (N, heads, S, d).
        v: like ``k``.
        table: the learned parameters of the bias.
        build: a partial of what makes the bias (heads, T, S), the same for all N, from ``table``.
    """
    if allowed():
        bias = _cache.get(table, build)
    else:
        # torch's fused attention for CPUs gives no gradient of a bias and falls back to the plain
        # one. A compiler is left that one: it cannot trace a backward pass that calls autograd.
        learning = table.requires_grad and torch.is_grad_enabled()
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not traced:
            _cache.forget(table)
        if q.is_cpu and learning and not traced:
            return _BiasedAttention.apply(q, k, v, table, build)
        bias = build(table)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))


class _BiasedAttention(torch.autograd.Function):
    """Forward fused; backward from q, k, v and the table alone, slice by slice."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, build: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, table)
        ctx.build = build
        return F.scaled_dot_product_attention(q, k, v, attn_mask=build(table)[None].to(q.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table = ctx.saved_tensors
        scale = q.shape[3] ** -0.5
        with torch.enable_grad():
            table = table.detach().requires_grad_()
            bias = ctx.build(table)
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        dbias = torch.zeros_like(bias)
        windows = min(len(q), max(1, BACKWARD_ELEMENTS // bias[0].numel()))
        memory = bias.new_empty(2, windows, *bias.shape[1:])
        for head, start in itertools.product(range(len(bias)), range(0, len(q), windows)):
            part = slice(start, start + windows), head
            # Half precision is for storing here: sums over windows and keys need more.
            ki, vi, gi = (x[part].to(bias.dtype).contiguous() for x in (k, v, grad))
            qi = q[part].to(bias.dtype) * scale
            weights, dlogits = memory[:, : len(qi)]  # (n, T, S) each
            torch.bmm(qi, ki.mT, out=weights).add_(bias[head])
            torch.softmax(weights, -1, out=weights)
            torch.bmm(gi, vi.mT, out=dlogits)
            torch.ops.aten._softmax_backward_data.out(
                dlogits, weights, -1, bias.dtype, grad_input=dlogits
            )
            dq[part] = torch.bmm(dlogits, ki).mul_(scale)
            dk[part] = torch.bmm(dlogits.mT, qi)
            dv[part] = torch.bmm(weights.mT, gi)
            dbias[head] += dlogits[0] if len(qi) == 1 else dlogits.sum(0)
        (dtable,) = torch.autograd.grad(bias, table, dbias)
        return dq, dk, dv, dtable, None


def position_bias(
    table: Tensor, *, window_size: int, height: int, width: int, with_padding_key: bool
) -> Tensor:
    """The bias of every query (row) for every key (column): (heads, T, T), ``T = height * width``.

    Args:
        table: (side * side, heads).
        height: of the window, which may be cut off: at most ``window_size``.
        width: likewise.
        with_padding_key: with one more key, the last, that stands for all those which the window
            lacks. Its bias is the logarithm of their summed exponentials.
    """
    ws = window_size
    maps = table.t().unflatten(1, (2 * ws - 1, 2 * ws - 1))  # (heads, side, side)
    bias = (slid if torch.compiler.is_compiling() else gathered)(maps, height, width)
    if not with_padding_key:
        return bias
    # The keys that lack are below (whole rows of the window) or to the right of those present.
    maps = maps.float()
    largest = maps.detach().amax((1, 2), keepdim=True)
    weights = (maps - largest).exp()
    below = _slide(_slide(weights, 1, ws - height, 0, height).sum(-1), 2, ws, 0, width).sum(-1)
    right = _slide(weights, 1, height, ws - height, height).sum(-1)
    right = _slide(right, 2, ws - width, 0, width).sum(-1)
    total = (below + right).clamp(min=torch.finfo(weights.dtype).tiny)
    keys = total.log() + largest  # (heads, height, width)
    return torch.cat([bias, keys.flatten(1)[..., None].to(bias.dtype)], 2)


def gathered(maps: Tensor, height: int, width: int) -> Tensor:
    """The biases (heads, T, T) out of a table (heads, side, side), by their places in it."""
    ws, side = (maps.shape[1] + 1) // 2, maps.shape[1]
    y = torch.arange(height, device=maps.device)
    x = torch.arange(width, device=maps.device)
    rows = y[:, None] - y + ws - 1  # of the table, for query row (first axis) and key row
    cols = x[:, None] - x + ws - 1
    # First one run of keys per row of the table and query column, then those as wholes.
    runs = maps.index_select(2, cols.flatten()).view(-1, side * width, width)
    index = rows[:, None] * width + x[:, None]  # (height, width, height)
    return runs.index_select(1, index.flatten()).view(-1, height * width, height * width)


def slid(maps: Tensor, height: int, width: int) -> Tensor:
    """What :func:`gathered` returns, without indices: a compiler can make constants of it.

    Its backward pass takes twice as long.
    """
    ws = (maps.shape[1] + 1) // 2
    runs = _slide(maps.flip(1, 2), 2, width, ws - width, width).flip(2)
    # (heads, side, width, width) -> (heads, height upside down, width, keys' width, keys' height)
    bias = _slide(runs, 1, height, ws - height, height)
    return bias.mT.flip(1).reshape(-1, height * width, height * width)


def _slide(x: Tensor, axis: int, size: int, first: int, count: int) -> Tensor:
    """``size`` neighbours along an axis, as a new last axis, from each of ``count`` places on."""
    return x.unfold(axis, size, 1).narrow(axis, first, count)


def resize_table(table: Tensor, own: Tensor) -> Tensor:
    """(side * side, heads) -> the shape of ``own``, bicubically, as GC ViT's dense network does it.

    A table that is not square or has other heads is returned as it is, for loading to refuse.
    """
    side, own_side = math.isqrt(table.shape[0]), math.isqrt(own.shape[0])
    if side**2 != table.shape[0] or table.shape[1:] != own.shape[1:]:
        return table
    maps = table.t().reshape(1, -1, side, side).float()  # (1, heads, rows, columns)
    maps = F.interpolate(maps, (own_side, own_side), mode='bicubic', align_corners=False)
    return maps[0].flatten(1).t().contiguous().to(table.dtype)
