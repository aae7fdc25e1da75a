"""Which pixels of a map share a window, as token numbers: one gather splits a map, one merges it.

The tokens of a map (B, C, H, W) are its pixels in row-major order, (B, H * W, C). B stands for
batch, N for windows of one size with T tokens each, R for the tokens of all windows, group after
group, C for channels and d for those of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .door import cached
from .fast import take
from .layout import has_symbolic_size


def window_groups(
    height: int, width: int, size: int, device: torch.device, pad: bool = False
) -> list[Tensor]:
    """The tokens in each window, (windows, window height, window width) per group of equal windows.

    Windows start at the top left corner. Those that reach over the right or the lower edge are cut
    off there, which makes up to four groups: inner windows, right edge, lower edge, corner. Then
    nothing need be computed for positions that do not exist.

    With ``pad`` all windows are whole, in one group, and positions outside the map have the number
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


class Windows:
    """A map's tokens by windows; windows at the edge are cut off there.

    With ``pad`` they are whole instead, and zero outside the map.

    Attributes:
        shapes: (N, height, width) per group of equal windows.
        lengths: N * T per group.
        are_cut: whether some windows are.
    """

    def __init__(self, height: int, width: int, size: int, device: torch.device, pad: bool) -> None:
        self._pad = pad
        self._in_order = not pad and width <= size  # as the tokens are anyway
        groups = window_groups(height, width, size, device, pad)
        self.shapes = [group.shape for group in groups]
        self.lengths = [n * h * w for n, h, w in self.shapes]
        self.are_cut = any(h * w < size * size for _, h, w in self.shapes)
        self._order = torch.cat([group.flatten() for group in groups])
        self._inverse = invert(self._order, height * width)

    def split(self, x: Tensor) -> Tensor:
        """(B, H * W, C) -> (B, R, C)."""
        if self._in_order:
            return x
        if self._pad:
            x = F.pad(x, (0, 0, 0, 1))  # the token of all positions outside
        return take(x, self._order)

    def merge(self, x: Tensor) -> Tensor:
        """(B, R, C) -> (B, H * W, C)."""
        return x if self._in_order else take(x, self._inverse)


def cut_windows(x: Tensor, size: int, *, mask_padding: bool) -> Windows:
    """The windows of a map (B, C, H, W)."""
    height, width = x.shape[2:]
    return Windows(height, width, size, x.device, _are_padded(height, width, mask_padding))


def _are_padded(height: int, width: int, mask_padding: bool) -> bool:
    """Whether windows at the edge are padded, in a graph for any size, instead of cut off.

    The number of groups would follow the size. But cut windows are how padding is masked: then a
    graph is of one size, which a trace has to be told to look at.
    """
    if not has_symbolic_size(height, width):
        return False
    if mask_padding and torch.jit.is_tracing():
        for side in (height, width):
            torch._assert_async(torch.as_tensor(side == int(side)))
    return not mask_padding


#: What stands in front of a window's pixels: the token that stands for padding too, one that all
#: windows share, one for each window, or nothing.
OwnToken = Literal['padding', 'shared', 'each', 'none']


@dataclass(frozen=True)
class TokenGroup:
    """Windows of one size: their number, tokens and padded positions in each.

    One token stands for all the padding of a window, if any: the one at ``padding_at``.
    """

    count: int
    length: int
    padding: int
    padding_at: int


class TokenWindows:
    """A map's tokens by windows, each behind a token of its own unless ``own`` is ``'none'``.

    The tokens after the H * W pixels, of L in all, stand for padding (one) and for the windows
    (one, or with ``'each'`` one per window, in row-major order). A window holds its own token, if
    it is cut off at the edge of the map one token for all its padding, and its pixels.

    Attributes:
        grid: rows and columns of windows.
        groups: per group of equal windows.
        tokens: (Nw,), where among the R tokens of all windows their own ones, or first ones, are.
        present: (Nw, ws * ws), with ``mask_padding`` the positions of pixels; None if all are.
    """

    def __init__(
        self,
        height: int,
        width: int,
        size: int,
        num_heads: int,
        device: torch.device,
        own: OwnToken,
        mask_padding: bool,
        pad: bool,
    ) -> None:
        zero = height * width  # the token that stands for padding
        self.grid = (height + size - 1) // size, (width + size - 1) // size
        self.groups: list[TokenGroup] = []
        order, tokens, places, pixels, start = [], [], [], [], 0
        for group in window_groups(height, width, size, device, pad):
            n, wh, ww = group.shape
            cut = (0, size - ww, 0, size - wh)
            padding = 0 if mask_padding else size * size - wh * ww
            members = group.flatten(1)
            # Sums, since torch.compile makes constants of what F.pad and torch.full fill in.
            front, pixel = torch.zeros_like(members[:, :1]) + zero, members[:, :1]
            if padding:
                members = torch.cat([front, members], 1)
            if own == 'each':
                number = pixel // width // size * self.grid[1] + pixel % width // size
                members = torch.cat([front + 1 + number, members], 1)
            elif own != 'none':
                members = torch.cat([front + int(own == 'shared'), members], 1)  # (N, T)
            t = members.shape[1]
            others = t - wh * ww  # the window's token, and what stands for padding
            place = torch.arange(others, t, device=device).view(wh, ww)
            behind = 0 if own == 'none' else others - 1  # the token of positions outside
            place = F.pad(place, cut, value=behind).flatten()  # (ws * ws,)
            first = start + t * torch.arange(n, device=device)
            order.append(members.flatten())
            tokens.append(first)
            places.append(first[:, None] + place)
            pixels.append((F.pad(group, cut, value=zero) if any(cut) else group).flatten(1))
            self.groups.append(TokenGroup(n, t, padding, int(own != 'none')))
            start += n * t
        self._order, self.tokens = torch.cat(order), torch.cat(tokens)
        self._num_heads = num_heads
        # Which head's share of which token, as one of (R * heads), is at each position of a window,
        # for one head after the other; and where among them those of each pixel are.
        head = torch.arange(num_heads, device=device)
        at, pixel = torch.cat(places).flatten(), torch.cat(pixels).flatten()  # (Nw * ws * ws,)
        self._by_head = (at * num_heads + head[:, None]).flatten()
        self._back = (invert(pixel, zero)[:, None] + head * pixel.shape[0]).flatten()
        hidden = mask_padding and (height % size or width % size)
        self.present = torch.cat(pixels) < zero if hidden else None

    def split(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, R, C)."""
        return take(x, self._order)

    def by_position(self, x: Tensor) -> Tensor:
        """(B, R, C) -> (B, heads, Nw, ws * ws * d): what whole windows hold, head after head."""
        x = take(x.unflatten(2, (self._num_heads, -1)).flatten(1, 2), self._by_head)
        return x.unflatten(1, (self._num_heads, self.tokens.shape[0], -1)).flatten(3)

    def merge(self, x: Tensor) -> Tensor:
        """(B, heads, Nw, ws * ws * d) -> (B, H * W, C)."""
        x = x.reshape(x.shape[0], self._by_head.shape[0], -1)
        return take(x, self._back).unflatten(1, (-1, self._num_heads)).flatten(2)


def token_windows(
    x: Tensor, size: int, num_heads: int, *, own: OwnToken, mask_padding: bool
) -> TokenWindows:
    """The windows of a map (B, C, H, W), which fast passes keep for the next image."""
    height, width = x.shape[2:]
    options = (own, mask_padding, _are_padded(height, width, mask_padding))
    key = (height, width, size, num_heads, x.device, *options)
    return cached(TokenWindows, *key, elements=height * width)
