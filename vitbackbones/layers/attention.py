"""Fused attention with a bias that is learned."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: Elements of attention matrices in a piece of the backward pass, which stays in the cache. Three
#: pieces are held at a time, and one is no less than a head of a window.
CHUNK = 1 << 19


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, build: Callable[[Tensor], Tensor]
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + build(table)) v`` without storing attention matrices.

    Args:
        q: (N, heads, T, d).
        k: (N, heads, S, d).
        v: like ``k``.
        table: the learned parameters of the bias.
        build: makes the bias (heads, T, S), the same for all N, from ``table``.
    """
    # torch's fused attention for CPUs gives no gradient of a bias, and falls back to the plain one.
    # A compiler is left that one: it cannot trace a backward pass that calls autograd.
    learning = table.requires_grad and torch.is_grad_enabled()
    if q.is_cpu and learning and not torch.compiler.is_compiling():
        return _BiasedAttention.apply(q, k, v, table, build)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=build(table)[None].to(q.dtype))


class _BiasedAttention(torch.autograd.Function):
    """Forward fused; backward from q, k, v and the table alone, piece by piece."""

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
        heads, size = bias.shape[0], bias[0].numel()
        together = min(heads, max(1, CHUNK // size))
        step = max(1, CHUNK // (together * size))
        starts = itertools.product(range(0, q.shape[0], step), range(0, heads, together))
        for start, head in starts:
            some = slice(head, head + together)
            part = slice(start, start + step), some
            # Half precision is for storing here: sums over windows and keys need more.
            qi, ki, vi, gi = (x[part].to(bias.dtype) for x in (q, k, v, grad))
            qi = qi * scale
            weights = (qi @ ki.mT).add_(bias[some]).softmax(-1)  # (n, some, T, S)
            dlogits = gi @ vi.mT
            dlogits.sub_((weights * dlogits).sum(-1, keepdim=True)).mul_(weights)
            dq[part] = (dlogits @ ki).mul_(scale)
            dk[part] = dlogits.mT @ qi
            dv[part] = weights.mT @ gi
            dbias[some] += dlogits.sum(0)
        (dtable,) = torch.autograd.grad(bias, table, dbias)
        return dq, dk, dv, dtable, None
