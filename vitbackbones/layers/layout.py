"""The order of a map's axes in memory."""

from __future__ import annotations

from torch import Tensor


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous: mmcv's RoIAlign reads any other order wrongly.

    On CPU torch transposes matrices by blocks and larger tensors one element after another, three
    times as slowly; hence the detour over a matrix. For B = 1 the second copy is none.
    """
    b, h, w, c = x.shape
    matrix = x.reshape(-1, c).t().contiguous()  # (C, B * H * W)
    return matrix.view(c, b, h, w).transpose(0, 1).contiguous()
