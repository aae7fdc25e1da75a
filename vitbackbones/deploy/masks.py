"""Masks of boxes, put into the image.

Shapes: N boxes, h x w mask of a box, H x W image.
"""

from __future__ import annotations

import torch
from torch import Tensor


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Probabilities (N, h, w) of boxes (N, 4) -> (N, H, W), 0 beyond the box.

    Sampling between positions is linear along each axis, so it is a product with a matrix for each:
    the numbers are those that mmdet takes from ``grid_sample``.
    """
    rows = _weights(boxes[:, 1], boxes[:, 3], masks.shape[1], height)  # (N, H, h)
    columns = _weights(boxes[:, 0], boxes[:, 2], masks.shape[2], width)  # (N, W, w)
    return rows @ masks @ columns.transpose(1, 2)


def _weights(low: Tensor, high: Tensor, cells: int, length: int) -> Tensor:
    """What each position of a side reads of the cells between two coordinates (N,): (N, L, h)."""
    pixel = torch.arange(length, device=low.device)
    low, high = low[:, None], high[:, None]
    at = (pixel + 0.5 - low) / (high - low) * cells - 0.5
    # A box without extent, as at the edge of an image, shows the middle of its mask.
    at = torch.where(high > low, at, torch.full_like(at, cells / 2 - 0.5))
    grid = torch.arange(cells, device=low.device, dtype=low.dtype)
    weights = (1 - (at[..., None] - grid).abs()).clamp(min=0)
    # On a CPU mmdet reads no pixel farther from the box, though there would be something.
    inside = (pixel >= low.floor() - 1) & (pixel < high.ceil() + 1)
    return weights * inside[..., None]
