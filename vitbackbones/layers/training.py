"""What layers compute in training on a CPU with backward passes of their own.

They keep less for them than layer after layer does, and work through it in pieces that stay in the
cache: memory that is new in every step has to be mapped anew, which takes as long as computing.
Whether they may be taken the callers ask (:func:`.door.allowed_in_training`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Tokens whose hidden layer is computed at a time.
CHUNK = 1536


def mlp(x: Tensor, norm: nn.LayerNorm | None, *layers: Tensor, approximate: str) -> Tensor:
    """``linear2(gelu(linear1(norm(x))))`` of (..., C); kept are ``x`` and what ``gelu`` is given.

    Args:
        norm: None for none.
        layers: weight (C', C) and bias of the first, weight (C, C') and bias of the second.
    """
    gamma, beta, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    return _Mlp.apply(x, gamma, beta, *layers, eps, approximate)


class _Mlp(torch.autograd.Function):
    """LayerNorm or nothing, linear, GELU, linear: norm and activation are computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        eps: float,
        approximate: str,
    ) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        hidden = tokens.new_empty(len(tokens), len(b1))
        y = torch.empty_like(tokens)
        memory = tokens.new_empty(min(CHUNK, len(tokens)), len(b1))
        for i in _chunks(tokens):
            normed = _norm(tokens[i], gamma, beta, eps)[0]
            before = torch.mm(normed, w1.t(), out=hidden[i]).add_(b1)
            active = torch.ops.aten.gelu.out(
                before, approximate=approximate, out=memory[: len(before)]
            )
            torch.mm(active, w2.t(), out=y[i]).add_(b2)
        ctx.save_for_backward(x, gamma, beta, w1, b1, w2, b2, hidden)
        ctx.options = eps, approximate
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, hidden = ctx.saved_tensors
        eps, approximate = ctx.options
        if torch.is_grad_enabled():  # a graph of the backward pass is wanted
            return *_differentiated(_plain_mlp, inputs, (eps, approximate), grad), None, None
        x, gamma, beta, w1, _, w2, _ = inputs
        tokens, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
        dx = torch.empty_like(tokens)
        dgamma, dbeta, dw1, db1, dw2 = (
            torch.zeros_like(p) if needed and p is not None else None
            for p, needed in zip(
                (gamma, beta, w1, hidden[0], w2), (*ctx.needs_input_grad[1:6],), strict=True
            )
        )
        db2 = grad.sum(0) if ctx.needs_input_grad[6] else None
        active, dhidden = hidden.new_empty(2, min(CHUNK, len(hidden)), hidden.shape[1]).unbind()
        for i in _chunks(tokens):
            g, n = grad[i], len(grad[i])
            if dw2 is not None:
                a = torch.ops.aten.gelu.out(hidden[i], approximate=approximate, out=active[:n])
                dw2.addmm_(g.t(), a)
            d = torch.mm(g, w2, out=dhidden[:n])
            torch.ops.aten.gelu_backward.grad_input(
                d, hidden[i], approximate=approximate, grad_input=d
            )
            if db1 is not None:
                db1 += d.sum(0)
            normed, *statistics = _norm(tokens[i], gamma, beta, eps)
            if dw1 is not None:
                dw1.addmm_(d.t(), normed)
            if gamma is None or beta is None:
                torch.mm(d, w1, out=dx[i])
                continue
            wanted = [True, dgamma is not None, dbeta is not None]
            dx[i], *more = torch.ops.aten.native_layer_norm_backward(
                torch.mm(d, w1), tokens[i], gamma.shape, *statistics, gamma, beta, wanted
            )
            for total, part in zip((dgamma, dbeta), more, strict=True):
                if total is not None:
                    total += part
        return dx.view(x.shape), dgamma, dbeta, dw1, db1, dw2, db2, None, None


def _plain_mlp(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    eps: float,
    approximate: str,
) -> Tensor:
    normed = _norm(x, gamma, beta, eps)[0]
    return F.linear(F.gelu(F.linear(normed, w1, b1), approximate=approximate), w2, b2)


def _norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    """What LayerNorm returns, its means and reciprocal deviations; ``x`` without ``gamma``."""
    return (x,) if gamma is None else torch.native_layer_norm(x, gamma.shape, gamma, beta, eps)


def _chunks(tokens: Tensor) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, len(tokens), CHUNK))


def _differentiated(
    plain: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    options: Sequence[Any],
    grad: Tensor,
) -> list[Tensor | None]:
    """Gradients by layer after layer, which can be differentiated once more."""
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(plain(*inputs, *options), wanted, grad, create_graph=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]
