"""The feature pyramid of SHViT's detectors, which adds finer levels by transposed convolutions.

Source: the published configs of SHViT (arXiv 2401.16456, section 5), whose stem has a stride of 16.
Its parameters have the published names.

Shapes: B batch, H x W map, C channels of the pyramid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.checkpoint import CheckpointNames
from vitbackbones.registry import MODELS, register

#: As published. mmengine finds layers by the name of their class: transposed convolutions are none
#: of these and start as torch draws them.
XAVIER = {'type': 'Xavier', 'layer': 'Conv2d', 'distribution': 'uniform'}


def _conv(in_dim: int, dim: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the map's size, under the name ``conv`` as in mmcv's ConvModule."""
    conv = nn.Conv2d(in_dim, dim, kernel, padding=kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv))


@register(MODELS)
class TransposedConvFPN(BaseModule):
    """FPN with levels finer than its input: maps of strides 16, 32, 64 become strides 4 to 64.

    A top-down pass adds each map to the next finer one. From the finest result a chain of 2 x 2
    transposed convolutions makes ``num_trans_convs`` finer levels; whatever is still wanted comes
    from the coarsest level by taking every second position.

    Args:
        in_channels: channels of each map, finest first.
        out_channels: channels of every output.
        num_outs: number of levels, finer and coarser ones included.
        num_trans_convs: how many of them are finer than the finest input.
        init_cfg: as mmengine's; None stands for the published one, Xavier uniform.
        out_levels: which levels are handed on, 0 being the finest; None stands for all. Layers that
            none of them needs are not built, so that every parameter gets a gradient.

    Raises:
        ValueError: an option outside its choices, or another number of maps than ``in_channels``.
    """

    #: Names that a file may have -> ours. That the transposed convolutions stand in their list
    #: without a layer around them is how mmcv 1 builds them, but not certain of the published ones.
    checkpoint_names: ClassVar[CheckpointNames] = CheckpointNames(
        official=((r'extra_trans_convs\.(\d+)\.[^.]+\.(?=weight|bias)', r'extra_trans_convs.\1.'),)
    )

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        num_trans_convs: int = 0,
        init_cfg: Mapping[str, Any] | list[Any] | None = None,
        out_levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(init_cfg=XAVIER if init_cfg is None else init_cfg)
        name = type(self).__name__
        if isinstance(in_channels, int) or not in_channels or min(in_channels) < 1:
            raise ValueError(
                f'{name}: in_channels={in_channels} must list the channels of each map'
            )
        if out_channels < 1:
            raise ValueError(f'{name}: out_channels={out_channels} must be at least 1')
        if num_trans_convs < 0:
            raise ValueError(f'{name}: num_trans_convs={num_trans_convs} must not be negative')
        least = num_trans_convs + len(in_channels)
        if num_outs < least:
            raise ValueError(
                f'{name}: num_outs={num_outs} must be at least {least}: {num_trans_convs} finer '
                f'levels by num_trans_convs and one per entry of in_channels={tuple(in_channels)}'
            )
        levels = tuple(range(num_outs)) if out_levels is None else tuple(out_levels)
        if not levels or list(levels) != sorted({*levels} & {*range(num_outs)}):
            raise ValueError(
                f'{name}: out_levels={out_levels} must name levels below num_outs={num_outs}, each '
                'once, in rising order'
            )
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.num_trans_convs = num_trans_convs
        self.out_levels = levels

        c, last = out_channels, len(in_channels) - 1
        # A layer keeps its number, and so its published name, where others before it are not built.
        self._first_map = min(max(levels[0] - num_trans_convs, 0), last)
        wanted = {min(level - num_trans_convs, last) for level in levels}  # negative: finer levels
        finer = range(max(num_trans_convs - levels[0], 0))
        self.lateral_convs = nn.ModuleList(
            _conv(dim, c, 1) if i >= self._first_map else nn.Identity()
            for i, dim in enumerate(in_channels)
        )
        self.fpn_convs = nn.ModuleList(
            _conv(c, c, 3) if i in wanted else nn.Identity() for i in range(len(in_channels))
        )
        self.extra_trans_convs = nn.ModuleList(nn.ConvTranspose2d(c, c, 2, 2) for _ in finer)
        self.extra_fpn_convs = nn.ModuleList(
            _conv(c, c, 3) if -1 - i in wanted else nn.Identity() for i in finer
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, in_channels[i], H_i, W_i) -> (B, C, H', W') for each level, finest first."""
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f'{type(self).__name__}: expected {len(self.in_channels)} maps, one per entry of '
                f'in_channels={self.in_channels}, got {len(inputs)}'
            )
        first = self._first_map
        maps = [conv(x) for conv, x in zip(self.lateral_convs[first:], inputs[first:], strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            # To the size of the finer map, which is not twice the coarser one's where it is odd.
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[2:])

        outputs = {
            level: conv(x)
            for level, (conv, x) in enumerate(
                zip(self.fpn_convs[first:], maps, strict=True), self.num_trans_convs + first
            )
        }
        x = maps[0]  # (B, C, H, W)
        for i, (upsample, conv) in enumerate(
            zip(self.extra_trans_convs, self.extra_fpn_convs, strict=True)
        ):
            x = upsample(x)  # (B, C, 2H, 2W)
            outputs[self.num_trans_convs - 1 - i] = conv(x)
        for level in range(max(outputs) + 1, self.num_outs):
            # (B, C, ceil(H/2), ceil(W/2))
            outputs[level] = F.max_pool2d(outputs[level - 1], 1, stride=2)
        return tuple(outputs[level] for level in self.out_levels)
