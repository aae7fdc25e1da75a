"""A network as a stranger would add it; importing this registers it, so only own processes do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from tests.small import SMALL
from vitbackbones.backbones.arch import Arch
from vitbackbones.backbones.base import Backbone, CheckpointNames, Layer, Options, in_stage
from vitbackbones.layers.blocks import DropPath
from vitbackbones.registry import MODELS, register


@dataclass(frozen=True, kw_only=True)
class ToyArch(Arch):
    dims: tuple[int, ...]


@register(MODELS)
class ToyNet(Backbone):
    """Strided convolutions, each with a residual one after it: maps at strides 8, 16 and 32."""

    archs = {'t': ToyArch(dims=(8, 12, 16)), 's': ToyArch(dims=(16, 24, 32))}  # noqa: RUF012
    arch_type = ToyArch
    strides = (8, 16, 32)
    family = 'ToyNet'
    checkpoint_names = CheckpointNames(official=((r'head\.', None),), stem=('stem.weight',))

    def __init__(self, arch: str | Mapping[str, Any] = 't', **options: Unpack[Options]) -> None:
        super().__init__(arch, **options)
        dims, rates = self.arch.dims[: self.num_stages], self.drop_path_rates([1] * 3)
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.stem = nn.Conv2d(self.in_channels, dims[0], 7, stride=8, padding=3)
        self.downs = nn.ModuleList(nn.Conv2d(*d, 3, 2, 1) for d in itertools.pairwise(dims))
        blocks = ([nn.Conv2d(d, d, 1), nn.GELU(), DropPath(*rates[i])] for i, d in enumerate(dims))
        self.blocks = nn.ModuleList(nn.Sequential(*layers) for layers in blocks)
        self.finish()

    def layers(self) -> list[Layer]:
        stages = enumerate(zip([None, *self.downs], self.blocks, strict=True), 1)
        return [in_stage(0, self.stem), *(in_stage(i, *parts) for i, parts in stages), []]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for down, block in zip([self.stem, *self.downs], self.blocks, strict=True):
            x = down(x)
            maps.append(x := x + self.run(block, x))
        return [maps[i] for i in self.out_indices]


SMALL['ToyNet'] = {'dims': (4, 6, 8)}
