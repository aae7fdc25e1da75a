"""Fused attention with a bias that is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: Elements of the attention matrices that are held at a time in the backward pass.
CHUNK = 1 << 22


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
    """Forward fused; backward from q, k, v and the table alone, some windows at a time."""

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
        step = max(1, CHUNK // bias.numel())
        for start in range(0, q.shape[0], step):
            part = slice(start, start + step)
            # Half precision is for storing here: sums over windows and keys need more.
            qi, ki, vi, gi = (x[part].to(bias.dtype) for x in (q, k, v, grad))
            qi = qi * scale
            weights = (qi @ ki.mT).add_(bias).softmax(-1)  # (n, heads, T, S)
            dlogits = gi @ vi.mT
            dlogits = weights * dlogits.sub_((weights * dlogits).sum(-1, keepdim=True))
            dq[part] = (dlogits @ ki).mul_(scale)
            dk[part] = dlogits.mT @ qi
            dv[part] = weights.mT @ gi
            dbias += dlogits.sum(0)
        (dtable,) = torch.autograd.grad(bias, table, dbias)
        return dq, dk, dv, dtable, None
