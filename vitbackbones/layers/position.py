"""Relative position biases of attention in windows, out of a learned table.

A table (side * side, heads) with ``side = 2 * ws - 1`` holds, row by row, the bias for each offset
between a query and a key of a window of ws x ws positions (Swin, arXiv 2103.14030, section 3.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def position_bias(
    table: Tensor, window_size: int, height: int, width: int, *, lacking: bool
) -> Tensor:
    """The bias of every query (row) for every key (column): (heads, T, T), ``T = height * width``.

    Args:
        table: (side * side, heads).
        height: of the window, which may be cut off: at most ``window_size``.
        width: likewise.
        lacking: with one more key, the last, that stands for all those which the window lacks. Its
            bias is the logarithm of their summed exponentials.
    """
    ws = window_size
    maps = table.t().unflatten(1, (2 * ws - 1, 2 * ws - 1))  # (heads, side, side)
    bias = (slid if torch.compiler.is_compiling() else gathered)(maps, height, width)
    if not lacking:
        return bias
    # The keys that lack are below (whole rows of the window) or to the right of those present.
    maps = maps.float()
    largest = maps.detach().amax((1, 2), keepdim=True)
    weights = (maps - largest).exp()
    below = _slide(_slide(weights, 1, ws - height, 0, height).sum(-1), 2, ws, 0, width).sum(-1)
    right = _slide(weights, 1, height, ws - height, height).sum(-1)
    right = _slide(right, 2, ws - width, 0, width).sum(-1)
    total = (below + right).clamp(min=torch.finfo(weights.dtype).tiny)
    keys = total.log() + largest  # (heads, height, width)
    return torch.cat([bias, keys.flatten(1)[..., None].to(bias.dtype)], 2)


def gathered(maps: Tensor, height: int, width: int) -> Tensor:
    """The biases (heads, T, T) out of a table (heads, side, side), by their places in it."""
    ws, side = (maps.shape[1] + 1) // 2, maps.shape[1]
    y = torch.arange(height, device=maps.device)
    x = torch.arange(width, device=maps.device)
    rows = y[:, None] - y + ws - 1  # of the table, for query row (first axis) and key row
    cols = x[:, None] - x + ws - 1
    # First one run of keys per row of the table and query column, then those as wholes.
    runs = maps.index_select(2, cols.flatten()).view(-1, side * width, width)
    index = rows[:, None] * width + x[:, None]  # (height, width, height)
    return runs.index_select(1, index.flatten()).view(-1, height * width, height * width)


def slid(maps: Tensor, height: int, width: int) -> Tensor:
    """What :func:`gathered` returns, without indices: a compiler can make constants of it.

    Its backward pass takes twice as long.
    """
    ws = (maps.shape[1] + 1) // 2
    runs = _slide(maps.flip(1, 2), 2, width, ws - width, width).flip(2)
    # (heads, side, width, width) -> (heads, height upside down, width, keys' width, keys' height)
    bias = _slide(runs, 1, height, ws - height, height)
    return bias.mT.flip(1).reshape(-1, height * width, height * width)


def _slide(x: Tensor, axis: int, size: int, first: int, count: int) -> Tensor:
    """``size`` neighbours along an axis, as a new last axis, from each of ``count`` places on."""
    return x.unfold(axis, size, 1).narrow(axis, first, count)


def resize_table(table: Tensor, own: Tensor) -> Tensor:
    """(side * side, heads) -> the shape of ``own``, bicubically, as GC ViT's dense network does it.

    A table that is not square or has other heads is returned as it is, for loading to refuse.
    """
    side, own_side = math.isqrt(table.shape[0]), math.isqrt(own.shape[0])
    if side**2 != table.shape[0] or table.shape[1:] != own.shape[1:]:
        return table
    maps = table.t().reshape(1, -1, side, side).float()  # (1, heads, rows, columns)
    maps = F.interpolate(maps, (own_side, own_side), mode='bicubic', align_corners=False)
    return maps[0].flatten(1).t().contiguous().to(table.dtype)
