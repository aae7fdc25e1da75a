"""Maps and their tokens: the order of axes in memory.

A map (B, C, H, W) in channels-last memory and its tokens (B, H * W, C), the pixels in row-major
order, are the same memory. Nothing that a compiler sees is computed in the form between them,
(B, H, W, C): torch.compile stores any four axes that come of a convolution as if they were
(B, C, H, W) in channels-last memory, which is another order for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Pixels that are transposed at a time: what is read is then still in the cache for the next row.
TRANSPOSE_BLOCK = 256


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), a view of a channels-last map."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W), a view in channels-last memory."""
    # Not transposed first: of one image that leaves strides which hide the order.
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def channels_first(x: Tensor) -> Tensor:
    """A map (B, C, H, W), contiguous: mmcv's RoIAlign reads any other order wrongly.

    On CPU torch transposes matrices by blocks and larger tensors one element after another, three
    times as slowly; hence the matrices.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not x.is_cpu or traced or x.is_contiguous():
        return x.contiguous()
    b, c, height, width = x.shape
    tokens = to_tokens(x)
    if torch.is_grad_enabled():
        matrix = tokens.reshape(-1, c).t().contiguous()  # (C, B * H * W)
        return matrix.view(c, b, height, width).transpose(0, 1).contiguous()
    y = tokens.new_empty(b, c, height * width)
    for source, target in zip(tokens, y, strict=True):
        for some, columns in zip(
            source.split(TRANSPOSE_BLOCK), target.split(TRANSPOSE_BLOCK, 1), strict=True
        ):
            columns.copy_(some.t())
    return y.view(b, c, height, width)


def has_symbolic_size(height: int, width: int) -> bool:
    """Whether a graph is being made that is to serve other sizes than this."""
    if torch.jit.is_tracing():  # which asserts nothing: it would be wrong elsewhere, silently
        return True
    if not torch.compiler.is_compiling():
        return False
    try:
        from torch.fx.experimental.symbolic_shapes import has_static_value
    except ImportError:  # an older torch does not tell
        return True
    return not (has_static_value(height) and has_static_value(width))
