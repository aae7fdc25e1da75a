"""Which tokens SuperViT keeps at an operating point."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.operating_point import OperatingPoint
from vitbackbones.backbones.supervit import DROPPING_BLOCKS, SuperViT, SuperViTClassifier
from vitbackbones.benchmark.points import read_points


def dropping_blocks(network: Backbone) -> list[int]:
    """The blocks that drop tokens, from 0 as the paper counts; none but in SuperViT."""
    if not isinstance(network, (SuperViT, SuperViTClassifier)):
        return []
    return [i for i in DROPPING_BLOCKS if i < len(network.blocks)]


def dropping_points(network: SuperViT | SuperViTClassifier) -> list[OperatingPoint]:
    """Those that a sandwich trains and that drop tokens, with the network's own if it does."""
    points = [*read_points(None), network.operating_point]
    return [*dict.fromkeys(point for point in points if point.keep_rate < 1)]


@torch.no_grad()
def kept_tokens(
    network: SuperViT | SuperViTClassifier, x: Tensor, point: OperatingPoint
) -> dict[int, Tensor]:
    """{dropping block: (h, w), whether the patch goes on after it} of one image.

    Args:
        x: (1, in_channels, H, W).
        point: with a keep rate below 1. The network's own is as it was afterwards.

    Raises:
        ValueError: the image has so few patches that less than one token would be left.
    """
    grid = (0, 0)
    kept: dict[int, Tensor] = {}
    positions: Tensor | None = None

    def embedded(_: nn.Module, args: Any, y: Tensor) -> None:
        nonlocal grid
        grid = (y.shape[2], y.shape[3])

    def chosen(block: int, _: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        nonlocal positions
        own = output[1][0]  # positions in what this block was given, the class token first
        positions = own if positions is None else positions[own]
        here = torch.zeros(1 + grid[0] * grid[1], dtype=torch.bool, device=x.device)
        here[positions] = True
        kept[block] = here[1:].view(grid)

    before = network.operating_point
    with ExitStack() as hooks:
        hooks.enter_context(network.patch_embed.register_forward_hook(embedded))
        for i in dropping_blocks(network):
            hook = functools.partial(chosen, i)
            hooks.enter_context(network.blocks[i].register_forward_hook(hook))
        network.operating_point = point
        try:
            network(x)
        finally:
            network.operating_point = before
    return kept
