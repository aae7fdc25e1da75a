"""Convolutions in channels-last memory, the faster order on a CPU."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .inference import is_plain, lean
from .layout import to_map

M = TypeVar('M', bound=nn.Module)


def channels_last(x: Tensor) -> Tensor:
    """``x``, on a CPU in channels-last memory, the order in which convolutions hand on their maps.

    Depthwise convolutions and those of few channels take half as long so, and the rows of 1 x 1
    convolutions are matrices.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.is_cpu else x


#: From so many times as many weights as inputs on, reading the weights is what a convolution costs.
HEAVY = 6


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)`` of (B, C, H, W) in channels-last memory, faster for small maps.

    A convolution of channels-last maps first brings its weights into that order, if they are not
    in it, which for 14 x 14 pixels and 512 channels takes longer than what follows. A product takes
    them as they are.
    """
    if (
        not lean(x)
        or not is_plain(conv, nn.Conv2d)
        or conv.groups > 1
        or conv.padding_mode != 'zeros'
        or isinstance(conv.padding, str)
        or not conv.weight.is_contiguous()
        or conv.weight.numel() < HEAVY * x.numel()
    ):
        return conv(x)
    sides = zip(
        x.shape[2:], conv.kernel_size, conv.dilation, conv.padding, conv.stride, strict=True
    )
    h, w = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides]
    patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    y = F.linear(patches.mT, conv.weight.flatten(1), conv.bias)  # (B, H' * W', C')
    return to_map(y, h, w)


class Pointwise(nn.Module):
    """A 1 x 1 convolution for inference on a CPU: (B, C, H, W) -> (B, C', H, W).

    Its weight is (C, C'): products read that from memory a quarter faster than (C', C).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten(1).t().contiguous())
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        if not lean(x):
            return F.conv2d(x, self.weight.t()[:, :, None, None], self.bias)
        y = F.linear(x.permute(0, 2, 3, 1), self.weight.t()).add_(self.bias)  # (B, H, W, C')
        return y.permute(0, 3, 1, 2)


@torch.no_grad()
def as_product(conv: M) -> M | Pointwise:
    """``conv``, or what computes it faster if it is a 1 x 1 convolution on a CPU."""
    if is_pointwise(conv) and conv.bias is not None and conv.weight.is_cpu:
        return Pointwise(conv.weight, conv.bias)
    return conv


def product(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Weight (C, C') and bias (C') of a plain 1 x 1 convolution; None for anything else."""
    if is_plain(layer, Pointwise):
        return layer.weight, layer.bias
    if not is_pointwise(layer) or layer.bias is None:
        return None
    return layer.weight.flatten(1).t(), layer.bias


def is_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a plain 1 x 1 convolution."""
    return (
        is_plain(layer, nn.Conv2d)
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )
