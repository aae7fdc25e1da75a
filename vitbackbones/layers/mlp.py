"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: On CPUs the hidden layer of larger inputs is made in pieces that stay in the cache: so many
#: elements are large, and a piece has so many rows.
LARGE = 1 << 22
PIECE = 512


class Mlp(nn.Module):
    """``fc2(GELU(fc1(x)))`` over the last dimension, exact (erf) GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # A compiler sees to that itself, and training keeps the hidden layer anyway.
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not x.is_cpu:
            return self.fc2(self.act(self.fc1(x)))
        rows = x.reshape(-1, x.shape[-1])
        large = rows.shape[0] * self.fc1.out_features > LARGE
        pieces = rows.split(PIECE) if large else (rows,)
        return torch.cat([self.fc2(self.act(self.fc1(piece))) for piece in pieces]).view(x.shape)
