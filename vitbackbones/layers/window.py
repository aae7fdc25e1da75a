"""Cutting a feature map into windows and back.

Shapes: B batch, H x W padded map, ws window size, C channels, Nw = (H / ws) (W / ws) windows in
row-major order, pixels of a window in row-major order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad (B, H, W, C) right and bottom until H and W are multiples of ``multiple``."""
    pad_h = -x.shape[1] % multiple
    pad_w = -x.shape[2] % multiple
    return F.pad(x, (0, 0, 0, pad_w, 0, pad_h)) if pad_h or pad_w else x


def window_split(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, C) -> (B, Nw, ws * ws, C); H and W must be multiples of ``window_size``."""
    b, h, w, c = x.shape
    ws = window_size
    x = x.view(b, h // ws, ws, w // ws, ws, c).transpose(2, 3)  # (B, H/ws, W/ws, ws, ws, C)
    return x.reshape(b, (h // ws) * (w // ws), ws * ws, c)


def window_valid(x: Tensor, window_size: int) -> Tensor | None:
    """Which positions of the windows of (B, H, W, C) are no padding: (Nw, ws * ws); None: all."""
    _, h, w, _ = x.shape
    if h % window_size == 0 and w % window_size == 0:
        return None
    inside = pad_to_multiple(x.new_ones(1, h, w, 1), window_size)
    return window_split(inside, window_size)[0, :, :, 0].bool()


def window_merge(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """(B, Nw, ws * ws, C) -> (B, height, width, C), the inverse of :func:`window_split`.

    ``height`` and ``width`` may be smaller than the windows cover: the padding is cropped.
    """
    b, _, _, c = windows.shape
    ws = window_size
    rows, cols = -(-height // ws), -(-width // ws)
    x = windows.view(b, rows, cols, ws, ws, c).transpose(2, 3)  # (B, rows, ws, cols, ws, C)
    return x.reshape(b, rows * ws, cols * ws, c)[:, :height, :width]
