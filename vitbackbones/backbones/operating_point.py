"""How much of an image SuperViT computes: at which scale, and how many of its tokens.

Shapes: B batch, N tokens with the class token first, C channels, k kept patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How much of an image is computed: ``scale`` of each side, ``keep_rate`` of the tokens.

    The first is the factor by which the image is resized, the second the share of tokens that each
    of the blocks that drop any keeps of those that reach it. (1, 1) is the plain network.

    Raises:
        ValueError: one of them is no number in (0, 1].
    """

    scale: float = 1.0
    keep_rate: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not (isinstance(value, Real) and 0 < float(value) <= 1):
                raise ValueError(f'operating_point: {name}={value!r} must be in (0, 1]')

    @classmethod
    def of(cls, value: OperatingPoint | Mapping[str, float] | None) -> OperatingPoint:
        """``value`` itself, or the point of the fields in a mapping; what is left out is 1.

        Raises:
            ValueError: neither of these, or a field that does not exist or is out of range.
        """
        if isinstance(value, cls):
            return value
        value = {} if value is None else value
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or set(value) - set(names):
            raise ValueError(f'operating_point={value!r} must be a dict of {" and ".join(names)}')
        return cls(**value)

    def resized(self, side: int, patch_size: int) -> int:
        """The pixels of a side of the image at this scale: whole patches, at least one."""
        if isinstance(side, Tensor):  # as sizes are in a trace, which is to hold for others too
            patches = (side.double() * self.scale / patch_size).round().clamp(min=1)
            return patch_size * patches.long()
        return patch_size * max(1, round(self.scale * side / patch_size))


def select_tokens(scores: Tensor, keep_rate: float) -> Tensor:
    """(B, N - 1) scores of the patch tokens -> (B, 1 + k) positions of the tokens to keep.

    The class token, at position 0, always stays and comes first; the k best patches follow by
    falling score, ``k = min(ceil(keep_rate * N), N - 1)``.
    """
    n = scores.shape[1] + 1
    if isinstance(n, Tensor):  # as sizes are in a trace
        k = torch.minimum((n.double() * keep_rate).ceil().long(), n - 1)
    else:
        k = min(math.ceil(keep_rate * n), n - 1)
    return F.pad(scores.topk(k).indices + 1, (1, 0))


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """(B, N, C), (B, n) -> (B, n, C): of each image the tokens at its own positions."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[2]))


def scatter_tokens(tokens: Tensor, positions: Tensor, changed: Tensor) -> Tensor:
    """(B, N, C), (B, n), (B, n, C) -> (B, N, C): ``tokens`` with those at the positions changed."""
    return tokens.scatter(1, positions[..., None].expand_as(changed), changed)
