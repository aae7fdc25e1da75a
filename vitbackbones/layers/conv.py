"""Convolutions in channels-last memory, in inference on a CPU in faster ways.

The first line of every function is the plain computation, and what it does unless the backbone has
opened the door (:mod:`.door`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from . import training
from .door import allowed, allowed_in_training, is_unmodified
from .fast import MLP_CHUNK, hidden_chunks
from .folding import has_statistics, scale_and_shift
from .layout import to_map, to_tokens

#: From so many times as many weights as inputs on, reading the weights is what a convolution costs.
MANY_WEIGHTS = 6
#: From so many elements on, a second map costs more than the few operations that do without.
LARGE_MAP = 1 << 17


def channels_last(x: Tensor) -> Tensor:
    """``x``, on a CPU in channels-last memory, the order in which convolutions hand on their maps.

    Depthwise convolutions and those of few channels take half as long so, and the tokens of 1 x 1
    convolutions are matrices.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.is_cpu else x


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """``layer(x)`` of (B, C, H, W) in channels-last memory.

    A convolution of channels-last maps first brings its weights into that order, if they are not
    in it, which for 14 x 14 pixels and 512 channels takes longer than what follows. A product takes
    them as they are.
    """
    if (
        not allowed()
        or layer.groups > 1
        or layer.padding_mode != 'zeros'
        or isinstance(layer.padding, str)
        or not layer.weight.is_contiguous()
        or layer.weight.numel() < MANY_WEIGHTS * x.numel()
    ):
        return layer(x)
    sides = zip(
        x.shape[2:], layer.kernel_size, layer.dilation, layer.padding, layer.stride, strict=True
    )
    h, w = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides]
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    y = F.linear(patches.mT, layer.weight.flatten(1), layer.bias)  # (B, H' * W', C')
    return to_map(y, h, w)


def conv_bn(layer: nn.Conv2d, norm: _BatchNorm, x: Tensor) -> Tensor:
    """``norm(layer(x))`` of (B, C, H, W)."""
    if not allowed() or layer.bias is not None:
        return norm(pointwise(layer, x))
    y = _matmul(x, layer.weight.flatten(1)) if is_pointwise(layer) else layer(x)
    if not has_statistics(norm) or norm.training:
        return norm(y)
    if y.numel() < LARGE_MAP:
        mean, var, eps = norm.running_mean, norm.running_var, norm.eps
        return torch.batch_norm(y, norm.weight, norm.bias, mean, var, False, 0.0, eps, False)
    # One map instead of two: what the convolution makes is overwritten by its norm.
    pixels = y.permute(0, 2, 3, 1)  # (B, H, W, C')
    scale, shift = scale_and_shift(norm)
    return torch.addcmul(shift, pixels, scale, out=pixels).permute(0, 3, 1, 2)


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, in training a product where it is a 1 x 1 convolution."""
    if not allowed_in_training() or not is_pointwise(layer):
        return layer(x)
    return _matmul(x, layer.weight.flatten(1), layer.bias)


def _matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1 x 1 convolution as a product: (B, C, H, W), (C', C) -> (B, C', H, W)."""
    y = F.linear(x.permute(0, 2, 3, 1), weight)  # (B, H, W, C')
    return (y if bias is None else y.add_(bias)).permute(0, 3, 1, 2)


def sequence(layers: nn.Sequential, x: Tensor) -> Tensor:
    """``layers(x)``, activations in the memory of what they get, be it ``x``."""
    if allowed():
        return _run(layers, x)
    if not allowed_in_training():
        return layers(x)
    for layer in layers:
        x = pointwise(layer, x)
    return x


def _run(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        if type(layer) is nn.ReLU:
            x = x.relu_()
        elif type(layer) is nn.GELU:
            x = torch.ops.aten.gelu_(x, approximate=layer.approximate)
        elif type(layer) is nn.Sigmoid:
            x = x.sigmoid_()
        else:
            x = layer(x)
    return x


def residual_sequence(x: Tensor, layers: nn.Sequential) -> Tensor:
    """``x + layers(x)`` of (B, C, H, W), where a 1 x 1 convolution comes last."""
    last: Any = layers[-1]
    if not allowed() or not is_pointwise(last) or last.bias is not None:
        return x + sequence(layers, x)
    y = _run(layers[:-1], x)
    tokens, hidden = to_tokens(x), to_tokens(y)  # (B, H * W, C)
    out = torch.addmm(tokens.flatten(0, 1), hidden.flatten(0, 1), last.weight.flatten(1).t())
    return to_map(out.view(tokens.shape), *x.shape[2:])


def pointwise_mlp(fc1: nn.Module, act: nn.GELU, fc2: nn.Module, x: Tensor) -> Tensor:
    """``fc2(act(fc1(x)))`` of (B, C, H, W), both being 1 x 1 convolutions."""
    first, second = pointwise_weight(fc1), pointwise_weight(fc2)
    if first is None or second is None or not (allowed() or allowed_in_training()):
        return fc2(act(fc1(x)))
    (w1, b1), (w2, b2) = first, second
    if allowed_in_training():
        layers = w1.t(), b1, w2.t(), b2
        y = training.mlp(x.permute(0, 2, 3, 1), None, *layers, approximate=act.approximate)
        return y.permute(0, 3, 1, 2)
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
    y = torch.empty_like(tokens)
    chunks = hidden_chunks(tokens, w1, b1, act)
    for (_, hidden), out in zip(chunks, y.split(MLP_CHUNK), strict=True):
        torch.mm(hidden, w2, out=out).add_(b2)
    return y.view(b, h, w, c).permute(0, 3, 1, 2)


def pointwise_parts(layer: nn.Module, x: Tensor, parts: int) -> Iterator[Tensor]:
    """``layer(x).chunk(parts, 1)`` of a 1 x 1 convolution, each part made when it is asked for."""
    if not allowed() or not isinstance(layer, (nn.Conv2d, Pointwise)):
        yield from pointwise(layer, x).chunk(parts, dim=1)
    elif isinstance(layer, Pointwise):
        for weight, bias in zip(layer.weight.chunk(parts, 1), layer.bias.chunk(parts), strict=True):
            yield _matmul(x, weight.t(), bias)
    else:
        biases = [None] * parts if layer.bias is None else layer.bias.chunk(parts)
        for weight, some in zip(layer.weight.chunk(parts), biases, strict=True):
            yield F.conv2d(x, weight, some)


class Pointwise(nn.Module):
    """A 1 x 1 convolution for inference on a CPU: (B, C, H, W) -> (B, C', H, W).

    Its weight is (C, C'): products read that from memory a quarter faster than (C', C).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten(1).t().contiguous())
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        if not allowed():
            return F.conv2d(x, self.weight.t()[:, :, None, None], self.bias)
        return _matmul(x, self.weight.t(), self.bias)


@torch.no_grad()
def as_matmul(layer: nn.Module) -> nn.Module:
    """``layer``, or what computes it faster if it is a 1 x 1 convolution on a CPU."""
    if not is_unmodified(layer, nn.Conv2d) or not is_pointwise(layer):
        return layer
    if layer.bias is None or not layer.weight.is_cpu:
        return layer
    return Pointwise(layer.weight, layer.bias)


def pointwise_weight(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Weight (C, C') and bias (C') of a 1 x 1 convolution; None for anything else."""
    if isinstance(layer, Pointwise):
        return layer.weight, layer.bias
    if not is_pointwise(layer) or layer.bias is None:
        return None
    return layer.weight.flatten(1).t(), layer.bias


def is_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a 1 x 1 convolution."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )
