"""A feature map as people can see it: its principal components as colours, and its energy."""

from __future__ import annotations

import torch
from torch import Tensor

#: Shares of the positions beyond which a component is as dark or as bright as it gets.
DARKEST, BRIGHTEST = 0.01, 0.99


def principal_components(x: Tensor) -> Tensor:
    """(C, H, W) -> (H, W, 3) in [0, 1]: the three directions in which positions differ most.

    The first one is red. A direction has no sign of its own: its largest weight is positive, so
    that equal maps have equal colours. Where there are fewer directions, colours are missing.
    """
    positions = x.detach().flatten(1).T.double()  # (H * W, C)
    positions = positions - positions.mean(0)
    variances, directions = torch.linalg.eigh(positions.T @ positions)  # rising
    count = min(3, len(variances))
    directions = directions[:, -count:].flip(1)
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    seen = positions @ (directions * signs)  # (H * W, count)
    low, high = torch.quantile(seen, seen.new_tensor([DARKEST, BRIGHTEST]), dim=0)
    colours = seen.new_zeros(len(seen), 3)
    # What does not vary but by rounding is no direction.
    varies = variances[-count:].flip(0) > 1e-12 * variances[-1]
    colours[:, :count] = ((seen - low) / (high - low)).clamp(0, 1).nan_to_num() * varies
    return colours.unflatten(0, x.shape[1:]).float()


def energy(x: Tensor) -> Tensor:
    """(C, H, W) -> (H, W): how long the vector of each position is."""
    return x.detach().norm(dim=0)
