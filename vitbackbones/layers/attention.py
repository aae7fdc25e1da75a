"""Fused attention with a bias that is learned: a relative position bias out of a table."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from .door import allowed
from .position_bias import Folding, PositionBias

#: Elements of attention matrices that are made at a time in the backward pass, to stay in the
#: cache. Three such slices are held at a time, and one is no less than a head of a window.
BACKWARD_ELEMENTS = 1 << 19
#: Biases of one table that are cached between passes: so many, and none of more elements.
BIAS_CACHE_ENTRIES, BIAS_CACHE_MAX_ELEMENTS = 4, 1 << 22


class _BiasCache:
    """Biases that were made of learned tables, from one pass to the next; no part of a module."""

    def __init__(self) -> None:
        self._biases = WeakIdKeyDictionary()
        self._lock = threading.Lock()

    def __getitem__(self, table: Tensor) -> dict[PositionBias, tuple[Tensor, Tensor]]:
        """What is there of a table: {which bias: (values of the table, bias)}."""
        return self._biases.get(table, {})

    def forget(self, table: Tensor) -> None:
        """Drop what is there of a table."""
        if self._biases:
            with self._lock:
                self._biases.pop(table, None)

    def get(self, table: Tensor, which: PositionBias) -> Tensor:
        """``which(table)``, made again when the values of ``table`` are others.

        EMA hooks and others write to parameters in ways that leave no trace in torch's version
        counter.
        """
        with self._lock:
            known, bias = self[table].get(which, (table[:0], table))
        if known.dtype != table.dtype or not torch.equal(known, table):
            known, bias = table.clone(), which(table)
        if bias.numel() <= BIAS_CACHE_MAX_ELEMENTS:
            with self._lock:
                own = self._biases.setdefault(table, {})
                own.pop(which, None)
                own[which] = known, bias  # the latest last
                if len(own) > BIAS_CACHE_ENTRIES:
                    own.pop(next(iter(own)))
        return bias


_cache = _BiasCache()


def attention_with_bias(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, which: PositionBias
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + which(table)) v`` without storing attention matrices.

    Args:
        q: (N, heads, T, d).
        k: (N, heads, S, d).
        v: like ``k``.
        table: the learned parameters of the bias (heads, T, S), which is the same for all N.
        which: makes it of them.
    """
    if allowed():
        bias = _cache.get(table, which)
    else:
        # torch's fused attention for CPUs gives no gradient of a bias and falls back to the plain
        # one. A compiler is left that one: it cannot trace a backward pass that calls autograd.
        learning = table.requires_grad and torch.is_grad_enabled()
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not traced:
            _cache.forget(table)
        if q.is_cpu and learning and not traced:
            return _BiasedAttention.apply(q, k, v, table, which)
        bias = which(table)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))


class _BiasedAttention(torch.autograd.Function):
    """Forward fused; backward from q, k, v and the table alone, slice by slice.

    Keys are taken from the last to the first (:meth:`.PositionBias.from_last_key`): their order is
    no matter to the queries.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, which: PositionBias
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, table)
        ctx.which = which
        maps = which.maps(table).contiguous()
        keys = which.padding_key(maps) if which.with_padding_key else None
        bias = maps.new_empty(q.shape[1], q.shape[2], k.shape[2])
        mask = which.from_last_key(maps, keys, out=bias)[None].to(q.dtype)
        return F.scaled_dot_product_attention(q, k.flip(2), v.flip(2), attn_mask=mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table = ctx.saved_tensors
        n, heads, t, d = q.shape
        s, scale = k.shape[2], d**-0.5
        which: PositionBias = ctx.which
        # Half precision is for storing here: sums over windows and keys need more.
        dtype = torch.promote_types(table.dtype, torch.float32)
        maps, keys = which.maps(table.detach()).to(dtype, copy=True).contiguous(), None
        if which.with_padding_key:
            with torch.enable_grad():
                keys = which.padding_key(maps.requires_grad_())  # (heads, H, W)
            dkeys = torch.empty_like(keys)
        # (heads, N, T or S, d), in which slices are matrices one after the other
        given = q.dtype
        q, grad, k, v = (x.transpose(0, 1).to(dtype) for x in (q, grad, k.flip(2), v.flip(2)))
        q, grad, k, v = (x.contiguous() for x in (q * scale, grad, k, v))
        dq, dk, dv = torch.empty_like(q), k.new_empty(k.mT.shape), v.new_empty(v.mT.shape)
        windows = min(n, max(1, BACKWARD_ELEMENTS // (t * s)))
        several = min(heads, max(1, BACKWARD_ELEMENTS // (n * t * s)))  # heads
        memory, biases = maps.new_empty(2, several * windows, t, s), maps.new_empty(several, t, s)
        fold = Folding(which, maps)
        for own in _slices(heads, several):
            bias = biases[: own.stop - own.start]
            which.from_last_key(maps[own], None if keys is None else keys[own], out=bias)
            dbias = None
            for part in _slices(n, windows):
                matrices = [x[own, part].flatten(0, 1) for x in (q, k, v, grad, dq, dk, dv)]
                dlogits = _backward_of_slice(*matrices, bias=bias, memory=memory)
                sums = dlogits.unflatten(0, (len(bias), -1))
                sums = sums[:, 0] if sums.shape[1] == 1 else sums.sum(1)
                if dbias is not None:
                    dbias += sums
                else:
                    dbias = sums if windows == n else sums.clone()  # the next slice overwrites it
            assert dbias is not None
            fold.take(own, dbias)
            if keys is not None:
                dkeys[own] = dbias[..., 0].view(dkeys[own].shape)
        dmaps = fold.result()
        if keys is not None:
            dmaps += torch.autograd.grad(keys, maps, dkeys)[0]
        dk, dv = (x.flip(3).mT for x in (dk, dv))  # from the first to the last key again
        dq, dk, dv = (x.transpose(0, 1).to(given) for x in (dq.mul_(scale), dk, dv))
        return dq, dk, dv, dmaps.flatten(1).t().to(table.dtype), None


def _backward_of_slice(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    *,
    bias: Tensor,
    memory: Tensor,
) -> Tensor:
    """Gradients of M matrices, head by head: written to ``dq``, ``dk``, ``dv``; of logits returned.

    Args:
        q: (M, T, d), scaled, as ``grad``, and ``dq``, which is not.
        k: (M, S, d), as ``v``; ``dk`` and ``dv`` are (M, d, S).
        bias: (n, T, S) of the n heads that the matrices are of.
        memory: (2, at least M, T, S), for the result too.
    """
    weights, dlogits = memory[:, : len(q)]
    torch.bmm(q, k.mT, out=weights)
    weights.unflatten(0, (len(bias), -1)).add_(bias[:, None])
    torch.softmax(weights, -1, out=weights)
    torch.bmm(grad, v.mT, out=dlogits)
    torch.ops.aten._softmax_backward_data.out(
        dlogits, weights, -1, dlogits.dtype, grad_input=dlogits
    )
    torch.bmm(dlogits, k, out=dq)
    # A product is faster where it is the small matrix that is turned round.
    torch.bmm(q.mT, dlogits, out=dk)
    torch.bmm(grad.mT, weights, out=dv)
    return dlogits


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
