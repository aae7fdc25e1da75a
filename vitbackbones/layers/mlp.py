"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .inference import is_plain, lean
from .linear import linear

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
        # A compiler sees to that itself, and training keeps the hidden layer anyway.
        plain = all(is_plain(layer, nn.Linear) for layer in (self.fc1, self.fc2))
        if not lean(x) or not plain or not is_plain(self.act, nn.GELU) or self.fc2.bias is None:
            return self.fc2(self.act(self.fc1(x)))
        rows = x.reshape(-1, x.shape[-1])
        y = rows.new_empty(rows.shape[0], self.fc2.out_features)
        for piece, out in zip(rows.split(PIECE), y.split(PIECE), strict=True):
            hidden = self.act(linear(self.fc1, piece))
            torch.mm(hidden, self.fc2.weight.t(), out=out).add_(self.fc2.bias)
        return y.view(*x.shape[:-1], self.fc2.out_features)
