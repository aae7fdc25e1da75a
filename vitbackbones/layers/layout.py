"""The order of a map's axes in memory."""

from __future__ import annotations

import torch
from torch import Tensor

#: Pixels that are transposed at a time: what is read is then still in the cache for the next row.
PIECE = 256


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous: mmcv's RoIAlign reads any other order wrongly.

    On CPU torch transposes matrices by blocks and larger tensors one element after another, three
    times as slowly; hence the matrices.
    """
    b, h, w, c = x.shape
    if not x.is_cpu or torch.compiler.is_compiling():
        return x.permute(0, 3, 1, 2).contiguous()
    if torch.is_grad_enabled():
        matrix = x.reshape(-1, c).t().contiguous()  # (C, B * H * W)
        return matrix.view(c, b, h, w).transpose(0, 1).contiguous()
    y = x.new_empty(b, c, h * w)
    for source, target in zip(x.flatten(1, 2), y, strict=True):
        for rows, columns in zip(source.split(PIECE), target.split(PIECE, 1), strict=True):
            columns.copy_(rows.t())
    return y.view(b, c, h, w)
