"""CAS-ViT: convolutional additive self-attention, linear in the number of pixels.

Paper: Zhang et al., "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for
Efficient Mobile Applications", arXiv 2408.03703 (section 3). In evaluation equal to the published
dense network (``RCViT`` in its code), whose parameter names are kept.

Deliberate differences from it: BatchNorm is frozen only by ``norm_eval=True`` (the published dense
results had it), drop path, freezing and outputs are options. The sources do not record the
published initialisation; the conventional one of hybrids is used: 1x1 convolutions as the linear
layers of ViT, the others normal of variance 2 / fan_out.

Shapes: B batch, H x W map, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from vitbackbones.layers.blocks import DropPath
from vitbackbones.layers.conv import (
    as_matmul,
    channels_last,
    pointwise_mlp,
    pointwise_parts,
    sequence,
)
from vitbackbones.layers.fast import multiply, residual_add
from vitbackbones.layers.folding import Fusible, fold_after, fold_before
from vitbackbones.layers.initialisation import init_transformer
from vitbackbones.layers.recompute import recompute_if_allowed
from vitbackbones.registry import MODELS, register

from .arch import Arch
from .base import Backbone, CheckpointNames, Layer, Options, in_stage


@dataclass(frozen=True, kw_only=True)
class CASViTArch(Arch):
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dims[0] % 2:
            raise ValueError(f'dims={self.dims} must begin with an even number, for the stem')


ARCHS = {
    'xs': CASViTArch(dims=(48, 56, 112, 220), depths=(2, 2, 4, 2), drop_path_rate=0.0),
    's': CASViTArch(dims=(48, 64, 128, 256), depths=(3, 3, 6, 3), drop_path_rate=0.0),
    'm': CASViTArch(dims=(64, 96, 192, 384), depths=(3, 3, 6, 3)),
    't': CASViTArch(dims=(96, 128, 256, 512), depths=(3, 3, 6, 3)),
}

# The classifier: its norm, and a second head where it was distilled.
CHECKPOINT_NAMES = CheckpointNames(
    official=((r'norm\.', None), (r'head\.', None), (r'dist_head\.', None)),
    absent_from_classifier=(r'norm[0246]\.',),
    stem=('patch_embed.0.weight',),
)


class LocalPerception(Fusible):
    """The local branch of a block: pointwise, depthwise and pointwise convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(dim, dim, 1),
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return sequence(self.network, x)

    def fuse(self) -> nn.Module:
        for place in (0, 4):
            self.network[place] = as_matmul(self.network[place])
        return self


class SpatialGate(nn.Module):
    """Weigh positions: ``x * sigmoid(...)`` of a (B, 1, H, W) map drawn from x, which it takes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, sequence(self.block, x))


class ChannelGate(nn.Module):
    """Weigh channels: ``x * sigmoid(...)`` of the (B, C, 1, 1) mean of x, which it takes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, dim, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, sequence(self.block, x))


class AdditiveAttention(nn.Module):
    """CATM, the convolutional additive token mixer: (B, C, H, W), same shape.

    Query and key pass a spatial and a channel gate each; their sum, not their product, is the
    context that weighs the value (section 3).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv: nn.Module = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.oper_q = nn.Sequential(SpatialGate(dim), ChannelGate(dim))
        self.oper_k = nn.Sequential(SpatialGate(dim), ChannelGate(dim))
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        parts = pointwise_parts(self.qkv, x, 3)  # (B, C, H, W) each
        q, k = (recompute_if_allowed(gate, next(parts)) for gate in (self.oper_q, self.oper_k))
        context = residual_add(q, k)
        return self.proj(multiply(self.dwc(context), next(parts)))


class ConvMlp(nn.Module):
    """``fc2(GELU(fc1(x)))`` over the channels of (B, C, H, W)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1: nn.Module = nn.Conv2d(dim, hidden_dim, 1)
        self.act = nn.GELU()
        self.fc2: nn.Module = nn.Conv2d(hidden_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_mlp(self.fc1, self.act, self.fc2, x)


class Block(Fusible):
    """Local perception, additive attention and MLP, each residual; (B, C, H, W), same shape."""

    def __init__(self, dim: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.local_perception = LocalPerception(dim)
        self.norm1: nn.Module = nn.BatchNorm2d(dim)
        self.attn = AdditiveAttention(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2: nn.Module = nn.BatchNorm2d(dim)
        self.mlp = ConvMlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = residual_add(x, self.local_perception(x))  # never dropped, as published
        x = residual_add(x, self.drop_path(self.attn(self.norm1(x))))
        return residual_add(x, self.drop_path(self.mlp(self.norm2(x))))

    def fuse(self) -> nn.Module:
        """Fold both norms into the pointwise convolutions behind them."""
        if (qkv := fold_before(self.norm1, self.attn.qkv)) is not None:
            self.norm1, self.attn.qkv = nn.Identity(), as_matmul(qkv)
        if (fc1 := fold_before(self.norm2, self.mlp.fc1)) is not None:
            self.norm2, self.mlp.fc1 = nn.Identity(), as_matmul(fc1)
            self.mlp.fc2 = as_matmul(self.mlp.fc2)
        return self


class Downsample(Fusible):
    """(B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2)): 3 x 3 convolution of stride 2, norm."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))

    def fuse(self) -> nn.Module:
        return fold_after(self.proj, self.norm) or self


def init_weights(module: nn.Module) -> None:
    """1x1 convolutions are linear layers, which a fan_out of one channel would make too large."""
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    else:
        init_transformer(module)


@register(MODELS)
class CASViT(Backbone):
    """CAS-ViT for dense prediction: four maps at strides 4, 8, 16, 32.

    Map i is (B, dims[i], H', W') with ``H' = ceil(H / stride)``, after a BatchNorm of its own; the
    next stage reads the map before that norm. The published dense results were obtained with
    ``norm_eval=True``: then the output norms, which no classifier holds, stay at the statistics
    0 and 1 and act as a learned affine map.

    The arguments are those of :class:`~vitbackbones.backbones.options.Options`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride.
    """

    archs = ARCHS
    arch_type = CASViTArch
    family = 'CAS-ViT'
    checkpoint_names = CHECKPOINT_NAMES
    attends = r'network\.\d+\.\d+\.attn', 'gates'
    arch: CASViTArch

    def __init__(self, arch: str | Mapping[str, Any] = 't', **options: Unpack[Options]) -> None:
        super().__init__(arch, **options)
        a = self.arch
        rates = self.drop_path_rates(a.depths)
        self.out_channels = tuple(a.dims[i] for i in self.out_indices)

        dim = a.dims[0]
        self.patch_embed = nn.Sequential(
            nn.Conv2d(self.in_channels, dim // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim // 2),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
        )
        self.network = nn.ModuleList()  # stages at even places, down-sampling between them
        for i in range(self.num_stages):
            if i:
                self.network.append(Downsample(a.dims[i - 1], a.dims[i]))
            self.network.append(
                nn.ModuleList(Block(a.dims[i], a.mlp_ratio, rate) for rate in rates[i])
            )
            if i in self.out_indices:
                self.add_module(f'norm{2 * i}', nn.BatchNorm2d(a.dims[i]))
        self.apply(init_weights)
        self.finish()

    def layers(self) -> list[Layer]:
        """The stem, one layer per block, the output norms.

        Down-sampling counts to the block that follows it.
        """
        layers = [in_stage(0, self.patch_embed)]
        for i in range(self.num_stages):
            first, *others = self.network[2 * i].children()
            layers.append(in_stage(i + 1, self.network[2 * i - 1] if i else None, first))
            layers += [in_stage(i + 1, block) for block in others]
        return [*layers, [(i + 1, getattr(self, f'norm{2 * i}')) for i in self.out_indices]]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        x = sequence(self.patch_embed, channels_last(x))  # (B, C, H', W')
        maps = []
        for i in range(self.num_stages):
            if i:
                x = self.network[2 * i - 1](x)  # (B, C', ceil(H' / 2), ceil(W' / 2))
            for block in self.network[2 * i].children():
                x = self.run(block, x)
            if i in self.out_indices:
                maps.append(getattr(self, f'norm{2 * i}')(x))
        return maps
