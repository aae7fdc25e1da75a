"""What layers compute, in inference on a CPU in faster ways.

The first line of every function is the plain computation, and what it does unless the backbone has
opened the door (:mod:`.door`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import training
from .blocks import Mlp
from .door import allowed, allowed_in_training

#: Tokens whose hidden layer, or whose windows, are computed at a time: they stay in the cache.
MLP_CHUNK = WINDOW_CHUNK = 1536


class WindowGroup(Protocol):
    """Windows of one size: ``count`` of them, of ``length`` tokens each."""

    @property
    def count(self) -> int: ...
    @property
    def length(self) -> int: ...


G = TypeVar('G', bound=WindowGroup)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """``layer(x)``.

    torch fills the output with the bias and adds the product to it, which for narrow inputs takes
    half as long as the product; adding the bias to the product takes a fraction of that.
    """
    if not allowed() or layer.bias is None:
        return layer(x)
    return F.linear(x, layer.weight).add_(layer.bias)


def linear_with_zeros(layer: nn.Linear, x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """``layer(cat([x, 0], 1)).split([*lengths, 1], 1)``: (B, N, C) -> parts of (B, N + 1, C').

    The last part, (B, 1, C') or (1, 1, C'), is what the layer makes of padding.
    """
    if not allowed():
        return layer(F.pad(x, (0, 0, 0, 1))).split([*lengths, 1], 1)
    zeros = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return *linear(layer, x).split([*lengths], 1), zeros.expand(1, 1, -1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """``x[:, index]``: the tokens (B, N, C) at the places (M,), which are (B, M, C)."""
    # torch shares the first axis alone among threads, and one image is what they wait for most.
    if allowed() and len(x) == 1:
        return x[0].index_select(0, index)[None]
    return x.index_select(1, index)


def relu(x: Tensor) -> Tensor:
    """``relu(x)``, in the memory of ``x``."""
    return x.relu_() if allowed() else x.relu()


def multiply(x: Tensor, weights: Tensor) -> Tensor:
    """``x * weights``, in the memory of ``x``."""
    return x.mul_(weights) if allowed() else x * weights


def residual_add(x: Tensor, y: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """``x + scale * y``, in the memory of ``y``.

    Args:
        scale: a number, or one per channel, the last axis.
    """
    if isinstance(scale, Tensor):
        # Converters of traced and exported graphs lack the single operation.
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return x + scale * y if traced else torch.addcmul(x, scale, y)
    return y.add_(x) if allowed() and scale == 1 else x.add(y, alpha=scale)


def add_mlp(
    x: Tensor, norm: nn.Module, mlp: Mlp, drop_path: nn.Module, scale: Tensor | float = 1.0
) -> Tensor:
    """``x + scale * drop_path(mlp(norm(x)))``, in the memory of ``x``.

    Args:
        x: (..., C), which the caller must have made: nobody else may need its values.
        scale: a number, or one per channel (C,).
    """
    if not allowed() or not x.is_contiguous() or drop_path.training or not _has_biases(mlp):
        return residual_add(x, drop_path(_norm_mlp(x, norm, mlp)), scale)
    # A compiler sees to that itself, and training keeps the hidden layer anyway.
    fc1, fc2 = mlp.fc1, mlp.fc2
    tokens = x.view(-1, x.shape[-1])
    chunks = hidden_chunks(tokens, fc1.weight.t(), fc1.bias, mlp.act, norm)
    for chunk, hidden in chunks:
        if isinstance(scale, Tensor):
            chunk.addcmul_(torch.mm(hidden, fc2.weight.t()).add_(fc2.bias), scale)
        else:
            chunk.addmm_(hidden, fc2.weight.t(), alpha=scale).add_(fc2.bias, alpha=scale)
    return x


def _norm_mlp(x: Tensor, norm: nn.Module, mlp: Mlp) -> Tensor:
    """``mlp(norm(x))``."""
    if not allowed_in_training() or not isinstance(norm, nn.LayerNorm) or not _has_biases(mlp):
        return mlp(norm(x))
    layers = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias
    return training.mlp(x, norm, *layers, approximate=mlp.act.approximate)


def _has_biases(mlp: Mlp) -> bool:
    return mlp.fc1.bias is not None and mlp.fc2.bias is not None


def hidden_chunks(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    act: nn.GELU,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of (N, C), and ``act(norm(tokens) @ weight + bias)`` of them, until all had a turn.

    All hidden layers lie in the same memory: each is gone when the next one comes.
    """
    memory = tokens.new_empty(min(MLP_CHUNK, len(tokens)), len(bias))
    for chunk in tokens.split(MLP_CHUNK):
        x = chunk if norm is None else norm(chunk)
        # The bias after the product: torch would fill the output with it first, and more slowly.
        hidden = torch.mm(x, weight, out=memory[: len(chunk)]).add_(bias)
        yield chunk, torch.ops.aten.gelu_(hidden, approximate=act.approximate)


def add_attention(
    x: Tensor,
    groups: Sequence[G],
    project: nn.Linear,
    attend: Callable[[Tensor, G], Tensor],
) -> Tensor:
    """``x + attend(project(x))`` in groups of equal windows, in the memory of ``x``.

    Args:
        x: (B, N, C), the windows of one group after those of another; the caller must have made it.
        attend: what the windows of a group, (B, count * length, C'), become: (B, ..., C).
    """
    lengths = [group.count * group.length for group in groups]
    if not allowed():
        parts = zip(project(x).split(lengths, 1), groups, strict=True)
        return x + torch.cat([attend(part, group) for part, group in parts], 1)
    if x.shape[0] * x.shape[1] <= WINDOW_CHUNK:  # one product for all
        parts = zip(linear(project, x).split(lengths, 1), groups, strict=True)
        outputs = [attend(part, group) for part, group in parts]
        for part, y in zip(x.split(lengths, 1), outputs, strict=True):
            part += y
        return x
    for part, group in zip(x.split(lengths, 1), groups, strict=True):
        windows = max(WINDOW_CHUNK // (x.shape[0] * group.length), 1)
        for chunk in part.split(windows * group.length, 1):
            chunk += attend(linear(project, chunk), group)
    return x
