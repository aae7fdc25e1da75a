"""Relative position biases: out of a learned table, and their gradients back into it.

A table (side * side, heads) with ``side = 2 * ws - 1`` holds, row by row, the bias for each offset
between a query and a key of a window of ws x ws positions (Swin, arXiv 2103.14030, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PositionBias:
    """The bias of every query (row) for every key (column) of a window.

    Called with a table (side * side, heads) it returns (heads, T, S), ``T = height * width``; S is
    T, or one more.

    Args:
        window_size: ws of the table.
        height: of the window, which may be cut off: at most ``window_size``.
        width: likewise.
        with_padding_key: with one more key, the last, that stands for all those which the window
            lacks. Its bias is the logarithm of their summed exponentials.
    """

    window_size: int
    height: int
    width: int
    with_padding_key: bool = False

    def __call__(self, table: Tensor) -> Tensor:
        maps = self.maps(table)
        build = slid if torch.compiler.is_compiling() else gathered
        bias = build(maps, self.height, self.width)
        if not self.with_padding_key:
            return bias
        keys = self.padding_key(maps).flatten(1)[..., None]
        return torch.cat([bias, keys.to(bias.dtype)], 2)

    def maps(self, table: Tensor) -> Tensor:
        """(side * side, heads) -> (heads, side, side)."""
        side = 2 * self.window_size - 1
        return table.t().unflatten(1, (side, side))

    def padding_key(self, maps: Tensor) -> Tensor:
        """The bias of each query for the padding key: (heads, height, width), at least float32."""
        ws, height, width = self.window_size, self.height, self.width
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        largest = maps.detach().amax((1, 2), keepdim=True)
        weights = (maps - largest).exp()

        def band(length: int, first: int, size: int) -> Tensor:
            """1 where one query reads the table: ``size`` entries from ``first`` on, then each one
            further on; (length, side)."""
            ones = weights.new_ones(length, weights.shape[-1])
            return ones.tril(first + size - 1).triu(first)

        # The keys that lack are below (whole rows of the window) or to the right of those present.
        below = band(height, 0, ws - height) @ weights @ band(width, 0, ws).T
        right = band(height, ws - height, height) @ weights @ band(width, 0, ws - width).T
        total = (below + right).clamp(min=torch.finfo(weights.dtype).tiny)
        return total.log() + largest

    def from_last_key(self, maps: Tensor, keys: Tensor | None, out: Tensor) -> Tensor:
        """The biases (heads, T, S) with the order of the keys turned round, written to ``out``.

        So row and column of the table grow with those of query and key, and the biases are a view
        of ``maps`` (heads, side, side), which a copy reads four times as fast as by indices.

        Args:
            keys: what :meth:`padding_key` returns, if there is one.
        """
        h, w, ws, side = self.height, self.width, self.window_size, maps.shape[-1]
        strides = (side * side, side, 1, side, 1)
        first = maps.storage_offset() + (ws - h) * side + ws - w
        self.pixels(out).copy_(maps.as_strided((len(maps), h, w, h, w), strides, first))
        if keys is not None:
            out[..., 0] = keys.flatten(1)
        return out

    def pixels(self, bias: Tensor) -> Tensor:
        """(heads, T, S), padding key first if there is one -> (heads, H, W, H, W), a view."""
        size = self.height, self.width
        return bias[..., int(self.with_padding_key) :].unflatten(2, size).unflatten(1, size)


class Folding:
    """Gradients of what :meth:`PositionBias.from_last_key` returns, some heads after others.

    All pairs of a query and a key that read one entry of the table are summed: first those with the
    same sum of rows, then those with the same sum of columns. If each row of queries lies one place
    further on than the one before, in memory that is zero besides, plain sums do that.

    Args:
        which: whose gradients.
        maps: the table (heads, side, side).
    """

    def __init__(self, which: PositionBias, maps: Tensor) -> None:
        self._which = which
        h, w = which.height, which.width
        self._by_row = maps.new_empty(len(maps), 2 * h - 1, w, w)
        self._moved = maps.new_empty(0)  # once written, what is zero stays zero

    def take(self, heads: slice, dbias: Tensor) -> None:
        """The gradient (n, T, S) of so many heads, of no more than at first."""
        h, w, n = self._which.height, self._which.width, len(dbias)
        rows = 2 * h - 1
        if not len(self._moved):
            self._moved = dbias.new_zeros(n, h, rows, w, w)
        strides = self._moved.stride(0), (rows + 1) * w * w, w * w, w, 1
        moved = self._moved.as_strided((n, h, h, w, w), strides)
        moved.copy_(self._which.pixels(dbias).transpose(2, 3))
        torch.sum(self._moved[:n], 1, out=self._by_row[heads])

    def result(self) -> Tensor:
        """The gradient of the table (heads, side, side), but for the padding key."""
        heads, rows, w, _ = self._by_row.shape
        ws, h, cols = self._which.window_size, self._which.height, 2 * w - 1
        moved = self._by_row.new_zeros(heads, w, rows, cols)
        strides = moved.stride(0), rows * cols + 1, cols, 1
        moved.as_strided((heads, w, rows, w), strides).copy_(self._by_row.transpose(1, 2))
        return F.pad(moved.sum(1), (ws - w, ws - w, ws - h, ws - h))


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
