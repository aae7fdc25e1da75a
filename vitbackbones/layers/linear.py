"""Linear layers in inference on a CPU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .inference import is_plain, lean


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, faster.

    torch fills the output with the bias and adds the product to it, which for narrow inputs takes
    half as long as the product; adding the bias to the product takes a fraction of that.
    """
    if lean(x) and is_plain(layer, nn.Linear) and layer.bias is not None:
        return F.linear(x, layer.weight).add_(layer.bias)
    return layer(x)
