"""What the blocks of several networks are made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .layout import to_map, to_tokens


class Mlp(nn.Module):
    """``fc2(GELU(fc1(x)))`` over the last dimension, exact (erf) GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Drop a residual branch per sample in training (Huang et al. 2016, "Stochastic Depth").

    The kept samples are divided by the keeping probability, so that the expectation is unchanged.

    Args:
        rate: probability of dropping, in [0, 1).

    Raises:
        ValueError: ``rate`` is outside [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f'drop path rate must be in [0, 1), got {rate!r}')
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ...)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), same shape, returned in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return to_map(super().forward(to_tokens(x)), *x.shape[2:])


def with_zero_gradients(x: Tensor, unused: Iterable[Tensor]) -> Tensor:
    """``x``, from which ``unused`` parameters get a gradient too, of zero."""
    return x + 0 * sum(p.sum() for p in unused) if torch.is_grad_enabled() else x
