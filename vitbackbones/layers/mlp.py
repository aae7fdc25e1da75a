"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .drop import DropPath
from .inference import add_to, is_plain, lean

#: In inference on CPUs the hidden layer is made for so many rows at a time, to stay in the cache.
PIECE = 1536


class Mlp(nn.Module):
    """``fc2(GELU(fc1(x)))`` over the last dimension, exact (erf) GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def add_mlp(
    x: Tensor, norm: nn.Module, mlp: Mlp, drop_path: nn.Module, scale: Tensor | float = 1.0
) -> Tensor:
    """``x + scale * drop_path(mlp(norm(x)))``, in the memory of ``x`` if nobody else looks there.

    Args:
        x: (..., C), which the caller must have made: nobody else may need its values.
        scale: a number, or one per channel (C,).
    """
    if not lean(x) or not x.is_contiguous() or not _is_known(norm, mlp, drop_path):
        return add_to(x, drop_path(mlp(norm(x))), mlp, drop_path, scale=scale)
    # A compiler sees to that itself, and training keeps the hidden layer anyway.
    fc1, fc2 = mlp.fc1, mlp.fc2
    rows = x.view(-1, x.shape[-1])
    for piece, hidden in hidden_pieces(rows, fc1.weight.t(), fc1.bias, norm):
        if isinstance(scale, Tensor):
            piece.addcmul_(torch.mm(hidden, fc2.weight.t()).add_(fc2.bias), scale)
        else:
            piece.addmm_(hidden, fc2.weight.t(), alpha=scale).add_(fc2.bias, alpha=scale)
    return x


def hidden_pieces(
    rows: Tensor, weight: Tensor, bias: Tensor, norm: Callable[[Tensor], Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows of (N, C), and ``GELU(norm(rows) @ weight + bias)`` of them, until all had a turn.

    All hidden layers lie in the same memory: each is gone when the next one comes.
    """
    memory = rows.new_empty(min(PIECE, len(rows)), len(bias))
    for piece in rows.split(PIECE):
        x = piece if norm is None else norm(piece)
        # The bias after the product: torch would fill the output with it first, and more slowly.
        hidden = torch.mm(x, weight, out=memory[: len(piece)]).add_(bias)
        yield piece, torch.ops.aten.gelu_(hidden)


def _is_known(norm: nn.Module, mlp: Mlp, drop_path: nn.Module) -> bool:
    """Whether all of it is what it was built as, in evaluation."""
    layers = (mlp.fc1, mlp.fc2)
    return (
        is_plain(norm, nn.LayerNorm)
        and is_plain(mlp, Mlp)
        and is_gelu(mlp.act)
        and all(is_plain(layer, nn.Linear) and layer.bias is not None for layer in layers)
        and is_plain(drop_path, DropPath)
        and not drop_path.training
    )


def is_gelu(module: nn.Module) -> bool:
    """Whether it is the plain, exact (erf) GELU."""
    return is_plain(module, nn.GELU) and module.approximate == 'none'
