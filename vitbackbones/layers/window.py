"""Which pixels of a map share a window, as row numbers: one gather splits a map, one merges it.

The rows of a map (B, C, H, W) are its pixels in row-major order, (B, H * W, C).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .inference import lean


def rows_at(rows: Tensor, index: Tensor) -> Tensor:
    """The rows (B, N, C) at the places ``index`` (M,): (B, M, C)."""
    # torch shares the first axis alone among threads, and one image is what they wait for most.
    if lean(rows) and len(rows) == 1:
        return rows[0].index_select(0, index)[None]
    return rows.index_select(1, index)


def one_graph(height: int, width: int) -> bool:
    """Whether a graph is being made that is to serve other sizes than this."""
    if not torch.compiler.is_compiling():
        return False
    try:
        from torch.fx.experimental.symbolic_shapes import has_static_value
    except ImportError:  # an older torch does not tell
        return True
    return not (has_static_value(height) and has_static_value(width))


def window_groups(
    height: int, width: int, size: int, device: torch.device, pad: bool = False
) -> list[Tensor]:
    """The rows in each window, (windows, window height, window width) per group of equal windows.

    Windows start at the top left corner. Those that reach over the right or the lower edge are cut
    off there, which makes up to four groups: inner windows, right edge, lower edge, corner. Then
    nothing need be computed for positions that do not exist.

    With ``pad`` all windows are whole, in one group, and positions outside the map have the row
    ``height * width``, one after the last. Unlike the number of groups, this form is the same for
    all sizes, as a graph for any height and width needs it.
    """
    if not pad:
        return [
            (rows[:, None, :, None] * width + cols[:, None]).flatten(0, 1)
            for rows in _bands(height, size, device)
            for cols in _bands(width, size, device)
        ]
    # On one axis: a compiler asks of every broadcast and reshape whether a length is one.
    # Of positive numbers: ONNX rounds other quotients towards zero.
    rows, cols, area = (height + size - 1) // size, (width + size - 1) // size, size * size
    position = torch.arange(rows * cols * area, device=device)
    window, pixel = position // area, position % area
    y = window // cols * size + pixel // size
    x = (window - window // cols * cols) * size + pixel % size
    inside = (y < height) & (x < width)
    return [torch.where(inside, y * width + x, height * width).view(-1, size, size)]


def _bands(length: int, size: int, device: torch.device) -> list[Tensor]:
    """The numbers 0 .. length - 1 in whole bands (number, size), and what is left (1, rest)."""
    position = torch.arange(length, device=device)
    whole = length - length % size
    bands = [position[:whole].view(-1, size), position[None, whole:]]
    return [band for band in bands if band.numel()]


def invert(order: Tensor, length: int) -> Tensor:
    """Where in ``order`` (one axis) 0 .. length - 1 are; it may hold ``length`` itself besides."""
    places = torch.arange(order.shape[0], device=order.device)
    return order.new_empty(length + 1).scatter_(0, order, places)[:length]
