"""Folding BatchNorm, in evaluation a scale and a shift per channel, into the layer next to it.

Each function returns a new layer and changes none that it is given. C stands for channels.
"""

from __future__ import annotations

import copy
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .door import is_unmodified

M = TypeVar('M', bound=nn.Module)


class Fusible(nn.Module):
    """A module that knows a cheaper equal of itself for inference."""

    def fuse(self) -> nn.Module:
        """What takes this module's place: itself, changed, or another one.

        :func:`vitbackbones.deploy.fuse` calls it on a copy of the network, in eval mode, after the
        module's children have been fused.
        """
        raise NotImplementedError(f'{type(self).__name__} must say how it is fused')


class ChannelAffine(nn.Module):
    """What a BatchNorm is in evaluation: ``scale * x + shift`` per channel of (B, C, ...)."""

    zeros: Tensor
    ones: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        scale, shift = scale_and_shift(norm)
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(shift)
        self.register_buffer('zeros', torch.zeros_like(shift), persistent=False)
        self.register_buffer('ones', torch.ones_like(shift), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # One pass over memory, in float32 within whatever x is: both are lost with `*` and `+`.
        return F.batch_norm(x, self.zeros, self.ones, self.scale, self.shift, eps=0.0)


def has_statistics(norm: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a BatchNorm that does not follow the batch in evaluation."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(C,) each: what a BatchNorm that :func:`has_statistics` multiplies by and adds."""
    mean, var, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    assert mean is not None
    assert var is not None
    scale = torch.rsqrt(var + norm.eps)
    if weight is not None:
        scale = scale * weight.detach()
    if bias is None:
        return scale, -mean * scale
    return scale, torch.addcmul(bias.detach(), mean, scale, value=-1)


def fold_after(conv: nn.Module, norm: nn.Module) -> nn.Module | None:
    """A convolution equal to ``norm(conv(x))``, or None."""
    if not has_statistics(norm):
        return None
    if is_unmodified(conv, nn.Conv2d):
        return fuse_conv_bn_eval(conv, norm)
    if is_unmodified(conv, nn.ConvTranspose2d) and conv.groups == 1:
        return fuse_conv_bn_eval(conv, norm, transpose=True)
    return None


@torch.no_grad()
def fold_before(norm: nn.Module, conv: nn.Module) -> nn.Conv2d | None:
    """A convolution equal to ``conv(norm(x))``, or None: zeros that pad a map are not normed."""
    if not has_statistics(norm) or not is_unmodified(conv, nn.Conv2d):
        return None
    if conv.padding not in ((0, 0), 'valid') or conv.groups != 1:
        return None
    scale, shift = scale_and_shift(norm)
    bias = conv.weight.sum(dim=(2, 3)) @ shift  # (C',)
    folded = copy.deepcopy(conv)
    folded.weight.mul_(scale[:, None, None])
    folded.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias)
    return folded


@torch.no_grad()
def fold_identity(conv: nn.Module) -> nn.Module | None:
    """A convolution equal to ``x + conv(x)``, or None: the map must keep its shape."""
    if not is_unmodified(conv, nn.Conv2d):
        return None
    if conv.in_channels != conv.out_channels:
        return None
    same = tuple(step * (k // 2) for k, step in zip(conv.kernel_size, conv.dilation, strict=True))
    odd = all(k % 2 for k in conv.kernel_size)
    if not odd or conv.padding != same or conv.stride != (1, 1):
        return None
    folded = copy.deepcopy(conv)
    folded.weight.add_(nn.init.dirac_(torch.empty_like(conv.weight), conv.groups))
    return folded
