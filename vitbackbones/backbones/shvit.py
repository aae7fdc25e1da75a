"""SHViT: a stem of stride 16, and single-head attention on a part of the channels.

Paper: Yun and Ro, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
arXiv 2401.16456. In evaluation equal to the published dense network, and its parameters have the
published names.

Deliberate differences from it: BatchNorm is frozen only by ``norm_eval=True`` (the published dense
results had it), ``frozen_stages`` counts stages, and drop path, which the published network does
not have, is an option.

Shapes: B batch, H x W map, C channels, P attended channels, N = H * W positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vitbackbones.layers.blocks import DropPath
from vitbackbones.layers.conv import as_matmul, channels_last, conv_bn, sequence
from vitbackbones.layers.fast import multiply, relu, residual_add
from vitbackbones.layers.folding import Fusible, fold_after, fold_identity
from vitbackbones.layers.layout import to_map, to_tokens
from vitbackbones.registry import MODELS, register

from .arch import Arch
from .base import Backbone, CheckpointNames, Layer, Options, in_stage


@dataclass(frozen=True, kw_only=True)
class SHViTArch(Arch):
    """``partial_dims`` channels attend in the stages where ``attention`` is set."""

    dims: tuple[int, ...]
    partial_dims: tuple[int, ...]
    depths: tuple[int, ...]
    attention: tuple[bool, ...] = (False, True, True)
    drop_path_rate: float = 0.0  # published: none, in classification and dense use alike

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dims[0] % 8:
            raise ValueError(f'dims={self.dims} must begin with a multiple of 8, for the stem')
        if any(p > dim for p, dim in zip(self.partial_dims, self.dims, strict=True)):
            raise ValueError(f'partial_dims={self.partial_dims} must not exceed dims={self.dims}')


ARCHS = {
    's1': SHViTArch(dims=(128, 224, 320), partial_dims=(32, 48, 68), depths=(2, 4, 5)),
    's2': SHViTArch(dims=(128, 308, 448), partial_dims=(32, 66, 96), depths=(2, 4, 5)),
    's3': SHViTArch(dims=(192, 352, 448), partial_dims=(48, 75, 96), depths=(3, 5, 5)),
    's4': SHViTArch(dims=(224, 336, 448), partial_dims=(48, 72, 96), depths=(4, 7, 6)),
}

# Entries that the down-sampling takes at the head of ``blocks2`` and ``blocks3``.
DOWNSAMPLING = 3

CHECKPOINT_NAMES = CheckpointNames(
    official=((r'head\.', None),),  # the classifier
    # timm holds those entries apart, with their parts in one list, and so counts blocks from 0.
    timm=(
        (r'head\.', None),
        (r'stages\.0\.blocks\.', 'blocks1.'),
        *(
            (rf'stages\.{k - 1}\.downsample\.{theirs}\.', f'blocks{k}.{ours}.')
            for k in (2, 3)
            for theirs, ours in enumerate(('0.0', '0.1', '1', '2.0', '2.1'))
        ),
        *(
            (rf'stages\.{k - 1}\.blocks\.{j}\.', f'blocks{k}.{j + DOWNSAMPLING}.')
            for k in (2, 3)
            for j in range(max(depth for arch in ARCHS.values() for depth in arch.depths))
        ),
    ),
    stem=('patch_embed.0.c.weight',),
)

# Width of queries and keys in every variant.
QK_DIM = 16


class ConvBN(Fusible):
    """Convolution without bias, then BatchNorm, whose scale starts at ``bn_weight``."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_dim, dim, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(dim)
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        return conv_bn(self.c, self.bn, x)

    def fuse(self) -> nn.Module:
        folded = fold_after(self.c, self.bn)
        return self if folded is None else as_matmul(folded)


class Residual(Fusible):
    """``x + droppath(m(x))``. Each ``m`` ends in a BatchNorm of scale 0: identity at first."""

    def __init__(self, m: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.m = m
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return residual_add(x, self.drop_path(self.m(x)))

    def fuse(self) -> nn.Module:
        """A convolution adds its input by itself, with one more in the middle of its kernels."""
        return fold_identity(self.m) or self


def depthwise(dim: int) -> ConvBN:
    """Depthwise 3 x 3 convolution, the local branch of a block."""
    return ConvBN(dim, dim, 3, groups=dim, bn_weight=0)


class FeedForward(nn.Module):
    """Two pointwise convolutions around a ReLU, ratio 2: (B, C, H, W), same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pw1 = ConvBN(dim, 2 * dim)
        self.pw2 = ConvBN(2 * dim, dim, bn_weight=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw2(relu(self.pw1(x)))


class SingleHeadAttention(nn.Module):
    """Attention with one head over the first P channels: (B, C, H, W), same shape.

    The other channels only meet the attended ones in the projection.
    """

    def __init__(self, dim: int, partial_dim: int) -> None:
        super().__init__()
        self.split = (partial_dim, dim - partial_dim)
        self.pre_norm = nn.GroupNorm(1, partial_dim)
        self.qkv = ConvBN(partial_dim, 2 * QK_DIM + partial_dim)
        self.proj = nn.Sequential(nn.ReLU(), ConvBN(dim, dim, bn_weight=0))

    def forward(self, x: Tensor) -> Tensor:
        attended, untouched = x.split(self.split, dim=1)
        qkv = to_tokens(self.qkv(self.pre_norm(attended)))  # (B, N, 16 + 16 + P)
        qk, v = qkv.split((2 * QK_DIM, self.split[0]), dim=2)
        # As wide as the values: of other widths torch would form the attention matrix on a CPU.
        fill = max(self.split[0] - QK_DIM, 0)
        q, k = F.pad(qk.unflatten(2, (2, QK_DIM)), (0, fill)).unbind(dim=2)  # (B, N, P) each
        y = F.scaled_dot_product_attention(
            q[:, None], k[:, None], v[:, None], scale=QK_DIM**-0.5
        )  # (B, 1, N, P)
        attended = to_map(y[:, 0], *x.shape[2:])  # (B, P, H, W)
        return sequence(self.proj, torch.cat([attended, untouched], dim=1))


class Block(nn.Module):
    """Local, global and pointwise mixing, each residual; without ``partial_dim`` none is global."""

    def __init__(self, dim: int, partial_dim: int | None, drop_path: float) -> None:
        super().__init__()
        self.conv = Residual(depthwise(dim), drop_path)
        self.mixer: nn.Module = nn.Identity()
        if partial_dim is not None:
            self.mixer = Residual(SingleHeadAttention(dim, partial_dim), drop_path)
        self.ffn = Residual(FeedForward(dim), drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.mixer(self.conv(x)))


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole map holds (Hu et al. 2018): (B, C, H, W), same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden_dim = max(8, int(dim / 4 + 4) // 8 * 8)  # a quarter, to a multiple of 8
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1)
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.fc2(relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid())


class PatchMerging(nn.Module):
    """Inverted bottleneck of stride 2: (B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2))."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        hidden_dim = 4 * dim
        self.conv1 = ConvBN(dim, hidden_dim)
        self.conv2 = ConvBN(hidden_dim, hidden_dim, 3, stride=2, groups=hidden_dim)
        self.se = SqueezeExcitation(hidden_dim)
        self.conv3 = ConvBN(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv2(relu(self.conv1(x))))  # (B, 4C, H', W')
        return self.conv3(self.se(x))


def downsampling(dim: int, out_dim: int, drop_path: float) -> list[nn.Module]:
    """The entries between two stages: patch merging between local and pointwise mixing."""
    before, after = (
        nn.Sequential(Residual(depthwise(d), drop_path), Residual(FeedForward(d), drop_path))
        for d in (dim, out_dim)
    )
    return [before, PatchMerging(dim, out_dim), after]


@register(MODELS)
class SHViT(Backbone):
    """SHViT for dense prediction: three maps at strides 16, 32, 64.

    Map i is (B, dims[i], H', W') with ``H' = ceil(H / stride)``, as the stage leaves it: there is
    no output norm. Weights start as torch draws them, with every residual branch at 0. The
    published detectors add finer levels in their neck and trained with ``norm_eval=True``.

    The arguments are those of :class:`~vitbackbones.backbones.options.Options`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride.
    """

    archs = ARCHS
    arch_type = SHViTArch
    strides = (16, 32, 64)
    family = 'SHViT'
    checkpoint_names = CHECKPOINT_NAMES
    attends = r'blocks\d\.\d+\.mixer\.m', 'single_head'
    arch: SHViTArch

    def __init__(self, arch: str | Mapping[str, Any] = 's4', **options: Unpack[Options]) -> None:
        super().__init__(arch, **options)
        a = self.arch
        rates = self.drop_path_rates(a.depths)
        self.out_channels = tuple(a.dims[i] for i in self.out_indices)

        stem = [self.in_channels, a.dims[0] // 8, a.dims[0] // 4, a.dims[0] // 2, a.dims[0]]
        self.patch_embed = nn.Sequential(
            ConvBN(stem[0], stem[1], 3, stride=2),
            nn.ReLU(),
            ConvBN(stem[1], stem[2], 3, stride=2),
            nn.ReLU(),
            ConvBN(stem[2], stem[3], 3, stride=2),
            nn.ReLU(),
            ConvBN(stem[3], stem[4], 3, stride=2),
        )
        for i in range(self.num_stages):
            partial_dim = a.partial_dims[i] if a.attention[i] else None
            blocks = [Block(a.dims[i], partial_dim, rate) for rate in rates[i]]
            # Down-sampling drops paths at the rate of the block that it leads to.
            entries = downsampling(a.dims[i - 1], a.dims[i], rates[i][0]) if i else []
            self.add_module(f'blocks{i + 1}', nn.ModuleList([*entries, *blocks]))
        self.finish()

    def layers(self) -> list[Layer]:
        """The stem, one layer per block; the last layer is empty, there is no output norm.

        Down-sampling counts to the block that follows it.
        """
        layers = [in_stage(0, self.patch_embed)]
        for i, stage in enumerate(self._stages()):
            first = DOWNSAMPLING if i else 0
            layers.append(in_stage(i + 1, *stage[: first + 1]))
            layers += [in_stage(i + 1, block) for block in stage[first + 1 :]]
        return [*layers, []]

    def _stages(self) -> list[nn.ModuleList]:
        return [getattr(self, f'blocks{i + 1}') for i in range(self.num_stages)]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        x = sequence(self.patch_embed, channels_last(x))  # (B, C, H', W')
        maps = []
        for i, stage in enumerate(self._stages()):
            for entry in stage:
                x = self.run(entry, x)
            if i in self.out_indices:
                maps.append(x)
        return maps
