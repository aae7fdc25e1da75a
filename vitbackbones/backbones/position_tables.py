"""Positions of SuperViT's tokens: learned tables of several grids, for images of any size.

Shapes: h x w patches, N = 1 + h * w tokens with the class token first, C channels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.layers.blocks import with_zero_gradients
from vitbackbones.layers.layout import has_symbolic_size

# Sides of the square grids of patches that have a position table: 128 to 224 pixels.
GRIDS = (8, 10, 12, 14)

# Numbers of patches in the middle between those of two tables.
HALFWAY = tuple((a**2 + b**2) / 2 for a, b in itertools.pairwise(GRIDS))


def resize_positions(table: Tensor, grid: int, h: int, w: int) -> Tensor:
    """(1, 1 + grid * grid, C) -> (1, 1 + h * w, C), bicubically; the class token's entry stays."""
    patches = table[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))  # (1, C, grid, grid)
    patches = F.interpolate(patches, (h, w), mode='bicubic', align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


class PositionTables(nn.Module):
    """What is added to tokens for their positions: one learned table per grid of patches.

    ``forward``: the patches (h, w) of an image -> (1, N, C), the table of the nearest number of
    tokens, resized bicubically if need be. Of two tables equally near the larger is taken; the
    class token's entry is never resized.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        for i, grid in enumerate(GRIDS):
            self.register_parameter(str(i), nn.Parameter(torch.empty(1, 1 + grid**2, dim)))
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    @property
    def tables(self) -> list[Tensor]:
        return [*self.parameters()]

    def forward(self, h: int, w: int) -> Tensor:
        if has_symbolic_size(h, w):
            return self._of_any_size(h, w)
        index = sum(h * w >= count for count in HALFWAY)
        table = self.tables[index]
        if (h, w) != (GRIDS[index], GRIDS[index]):
            table = resize_positions(table, GRIDS[index], h, w)
        # Every parameter gets a gradient in every step: DDP need not search for unused ones.
        others = [t for i, t in enumerate(self.tables) if i != index]
        return with_zero_gradients(table, others)

    def _of_any_size(self, h: int, w: int) -> Tensor:
        """The same in an exported program, which learns the size when it runs."""
        pairs = zip(self.tables, GRIDS, strict=True)
        tables = torch.cat([resize_positions(table, grid, h, w) for table, grid in pairs])
        index = (torch.tensor(HALFWAY, device=tables.device) <= h * w).sum(dim=0, keepdim=True)
        return tables.index_select(0, index)
