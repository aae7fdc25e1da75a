"""Linear layers in inference on a CPU."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def lean(x: Tensor) -> bool:
    """Whether nothing but the numbers counts: inference in float32 on a CPU, without a compiler."""
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled('cpu')
    )


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, faster.

    torch fills the output with the bias and adds the product to it, which for narrow inputs takes
    half as long as the product; adding the bias to the product takes a fraction of that.
    """
    if lean(x) and is_plain(layer):
        return F.linear(x, layer.weight).add_(layer.bias)
    return layer(x)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is what its weight and bias say: adapters and quantisers change type or hooks."""
    return (
        type(layer) is nn.Linear
        and layer.bias is not None
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )
