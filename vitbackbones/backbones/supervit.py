"""SuperViT: one plain ViT for many input sizes and many token keeping rates.

Paper: Lin et al., "Super Vision Transformer", arXiv 2205.11397 (section 3). Two networks share
the trunk: :class:`SuperViTClassifier` is the published classifier, equal to it in evaluation;
:class:`SuperViT` is the dense network, which has no published counterpart. At a trained grid and
full keep rate its tokens are those of the classifier.

Choices of the dense network: the image is padded with zeros at the right and bottom to whole
patches and every map is cropped to what the image covers; positions come from the trained table
of the nearest number of tokens; tokens that are dropped stay in the map as they are (the rule of
arXiv 2306.07050); the final norm is applied to every map that is tapped, to dropped tokens too; a
pyramid as in ViTDet (arXiv 2203.16527, section 3) makes strides 4, 8, 16 and 32. The sources do
not record the published initialisation: that of ViT is used.

Shapes: B batch, H x W image, h x w patches, N tokens at work with the class token first (1 + h * w
until some are dropped), C channels, d channels of a head, k kept patches.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vitbackbones.layers.blocks import DropPath, LayerNorm2d, Mlp
from vitbackbones.layers.fast import add_mlp, linear, residual_add
from vitbackbones.layers.initialisation import init_transformer
from vitbackbones.registry import MODELS, register

from .arch import Arch, int_tuple
from .base import Backbone, CheckpointNames, Layer, Options, in_stage
from .operating_point import OperatingPoint, gather_tokens, scatter_tokens, select_tokens
from .position_tables import GRIDS, PositionTables


@dataclass(frozen=True, kw_only=True)
class SuperViTArch(Arch):
    """``stem_dim`` is the width of a convolutional stem, None stands for a single convolution.

    ``residual_scale`` multiplies every residual branch, ``aux_weight`` is the share of the patch
    tokens in the classifier's logits. No dense drop path is published.
    """

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: int
    qkv_bias: bool
    norm_eps: float
    stem_dim: int | None = None
    residual_scale: float = 1.0
    aux_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.num_heads:
            raise ValueError(f'dim={self.dim} must be a multiple of num_heads={self.num_heads}')


ARCHS = {
    'deit_s': SuperViTArch(
        dim=384, depth=12, num_heads=6, mlp_ratio=4, qkv_bias=True, norm_eps=1e-6
    ),
    'lvvit_s': SuperViTArch(
        dim=384,
        depth=16,
        num_heads=6,
        mlp_ratio=3,
        qkv_bias=False,
        norm_eps=1e-5,
        stem_dim=64,
        residual_scale=0.5,
        aux_weight=0.25,
    ),
}

# The classifier's heads; its final norm belongs to the trunk.
CHECKPOINT_NAMES = CheckpointNames(
    official=((r'head\.', None), (r'aux_head\.', None)),
    absent_from_classifier=(r'pyramid\.',),
    stem=('patch_embed.conv1.weight', 'patch_embed.proj.weight'),
)

PATCH_SIZE = 16

# Sides in pixels that the classifier is trained for.
SIZES = [grid * PATCH_SIZE for grid in GRIDS]

# Blocks that drop tokens, 0-based, whatever the depth.
DROPPING_BLOCKS = (3, 6, 9)


def patch_embed(in_channels: int, stem_dim: int | None, dim: int) -> nn.Sequential:
    """(B, in_channels, 16 h, 16 w) -> (B, C, h, w): with a ``stem_dim``, three convolutions first.

    The stem is LV-ViT's. Layers have the published names.
    """
    layers: dict[str, nn.Module] = {}
    patch = PATCH_SIZE
    if stem_dim is not None:
        for i, (kernel, stride) in enumerate(((7, 2), (3, 1), (3, 1)), start=1):
            layers[f'conv{i}'] = nn.Conv2d(
                in_channels, stem_dim, kernel, stride, padding=kernel // 2, bias=False
            )
            layers[f'bn{i}'] = nn.BatchNorm2d(stem_dim)
            layers[f'relu{i}'] = nn.ReLU()
            in_channels, patch = stem_dim, patch // stride
    layers['proj'] = nn.Conv2d(in_channels, dim, patch, stride=patch)
    return nn.Sequential(OrderedDict(layers))


class Attention(nn.Module):
    """Self-attention of ViT: (B, N, C), same shape."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, scored: bool = False) -> tuple[Tensor, Tensor | None]:
        """With ``scored`` also (B, N - 1): the class token's attention to every patch."""
        b, n, c = x.shape
        qkv = linear(self.qkv, x).view(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        if not scored:
            return linear(self.proj, x), None
        # One row of the attention matrix, which is never formed. It only chooses: no gradient.
        query = q[:, :, :1].detach() * q.shape[-1] ** -0.5
        row = (query @ k.detach().transpose(-2, -1)).softmax(dim=-1)  # (B, heads, 1, N)
        return linear(self.proj, x), row.mean(dim=1)[:, 0, 1:]


class Block(nn.Module):
    """Attention and MLP, each with norm and residual, and between them the choice of tokens."""

    def __init__(self, arch: SuperViTArch, drop_path: float) -> None:
        super().__init__()
        self.residual_scale = arch.residual_scale
        self.norm1 = nn.LayerNorm(arch.dim, eps=arch.norm_eps)
        self.attn = Attention(arch.dim, arch.num_heads, arch.qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(arch.dim, eps=arch.norm_eps)
        self.mlp = Mlp(arch.dim, arch.mlp_ratio * arch.dim)

    def forward(self, x: Tensor, keep_rate: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """(B, N, C) -> the tokens after the block, same shape, and which of them go on.

        At keep rate 1 that is None: all of them. Below 1 it is (B, 1 + k), see
        :func:`select_tokens`, and the others skip the MLP.
        """
        y, scores = self.attn(self.norm1(x), scored=keep_rate < 1)
        x = residual_add(x, self.drop_path(y), self.residual_scale)
        if scores is None:
            return self._add_mlp(x), None
        kept = select_tokens(scores, keep_rate)
        return scatter_tokens(x, kept, self._add_mlp(gather_tokens(x, kept))), kept

    def _add_mlp(self, x: Tensor) -> Tensor:
        return add_mlp(x, self.norm2, self.mlp, self.drop_path, self.residual_scale)


def quarters(depth: int) -> list[int]:
    """Numbers of blocks in the first one, two, three and four quarters of a network."""
    return [-(-depth * i // 4) for i in range(1, 5)]


class Trunk(nn.Module):
    """What the classifier and the dense network share: the tokens, the blocks, the final norm."""

    def build_trunk(
        self, arch: SuperViTArch, in_channels: int, drop_path_rates: Sequence[float]
    ) -> None:
        """Build one block per entry of ``drop_path_rates``; called by the constructors."""
        dim = arch.dim
        self.patch_embed = patch_embed(in_channels, arch.stem_dim, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed_list = PositionTables(dim)
        self.blocks = nn.ModuleList(Block(arch, rate) for rate in drop_path_rates)
        self.norm = nn.LayerNorm(dim, eps=arch.norm_eps)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, x: Tensor) -> Tensor:
        """(B, in_channels, 16 h, 16 w) -> (B, N, C): tokens with their positions added."""
        x = self.patch_embed(x)
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)  # (B, h * w, C)
        return torch.cat([self.cls_token.expand(b, -1, -1), x], dim=1) + self.pos_embed_list(h, w)

    def trunk_layers(self, depth: int, *after: nn.Module | None) -> list[Layer]:
        """The stem, the blocks by quarters of ``depth``, the norm with what comes ``after`` it."""
        ends = quarters(depth)
        return [
            in_stage(0, self.patch_embed, self.cls_token, self.pos_embed_list),
            *(in_stage(bisect.bisect(ends, i) + 1, block) for i, block in enumerate(self.blocks)),
            in_stage(len(ends), self.norm) + in_stage(None, *after),
        ]

    def undecayed(self) -> set[str]:
        """Names of class token and position tables."""
        return {'cls_token', *(f'pos_embed_list.{i}' for i in range(len(GRIDS)))}


@register(MODELS)
class SuperViTClassifier(Backbone, Trunk):
    """The published classifier, whose one output is no map: logits (B, num_classes).

    The class token is classified; where the network has an auxiliary head, a share of each class's
    best logit over the remaining patches is added.

    Args:
        num_classes: length of the logits.
        operating_point: as the dense network's, its scale being ``size`` in units of 224 pixels.

    Attributes:
        size: side in pixels to which images are resized: 128, 160, 192 or, at first, 224.
        keep_rate: share of the tokens that each of the blocks 3, 6 and 9 keeps, in (0, 1]; at
            first 1. Both may be set at any time; the next passes run there.
        operating_point: the two together; may be set as well.

    The other arguments are those of :class:`~vitbackbones.backbones.options.Options`; stages are
    quarters of the blocks, the last one with the norm, and ``out_indices`` has no meaning.

    Raises:
        ValueError: an option outside its choices, or a pass at another ``size`` or ``keep_rate``.
    """

    archs = ARCHS
    arch_type = SuperViTArch
    family = 'SuperViT'
    checkpoint_names = CheckpointNames(stem=CHECKPOINT_NAMES.stem)
    attends = r'blocks\.\d+\.attn', 'class_token'
    dense = False
    arch: SuperViTArch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'deit_s',
        *,
        num_classes: int = 1000,
        operating_point: OperatingPoint | Mapping[str, float] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(arch, **options)
        a = self.arch
        self.num_classes = num_classes
        self.operating_point = operating_point
        self.out_channels = (num_classes,)
        self.build_trunk(a, self.in_channels, *self.drop_path_rates([a.depth]))
        self.head = nn.Linear(a.dim, num_classes)
        self.aux_head = nn.Linear(a.dim, num_classes) if a.aux_weight else None
        self.apply(init_transformer)
        self.finish()

    @property
    def operating_point(self) -> OperatingPoint:
        return OperatingPoint(scale=self.size / SIZES[-1], keep_rate=self.keep_rate)

    @operating_point.setter
    def operating_point(self, value: OperatingPoint | Mapping[str, float] | None) -> None:
        point = OperatingPoint.of(value)
        size = round(point.scale * SIZES[-1])
        if size not in SIZES:
            scales = ', '.join(f'{size}/{SIZES[-1]}' for size in SIZES)
            raise ValueError(f'SuperViTClassifier: scale={point.scale} must be one of {scales}')
        self.size, self.keep_rate = size, point.keep_rate

    def layers(self) -> list[Layer]:
        """The stem with class token and position tables, one layer per block, norm and heads."""
        return self.trunk_layers(self.arch.depth, self.head, self.aux_head)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        tokens, _ = self.tokens(x, self.size, self.keep_rate)
        logits = self.head(tokens[:, 0])
        if self.aux_head is not None:
            best = self.aux_head(tokens[:, 1:]).amax(dim=1)
            logits = logits + self.arch.aux_weight * best
        return [logits]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: class token and position tables."""
        return self.undecayed()

    def tokens(self, x: Tensor, size: int, keep_rate: float) -> tuple[Tensor, list[Tensor]]:
        """(B, 1 + k, C) normed tokens, and per dropping block the (B, 1 + k') tokens it kept.

        The latter are positions in that block's input sequence; the list is empty at rate 1.
        """
        if size not in SIZES:
            raise ValueError(f'SuperViTClassifier: size={size} must be one of {SIZES}')
        OperatingPoint(keep_rate=keep_rate)  # checks it
        x = F.interpolate(x, (size, size), mode='bilinear', align_corners=True)
        x = self.embed(x)  # (B, N, C)
        selections = []
        for i, block in enumerate(self.blocks):
            x, kept = self.run(block, x, keep_rate if i in DROPPING_BLOCKS else 1.0)
            if kept is not None:
                x = gather_tokens(x, kept)
                selections.append(kept)
        return self.norm(x), selections


def pyramid_level(dim: int, stride: int) -> nn.Module:
    """From stride 16 to ``stride``: (B, C, h, w) -> (B, C, h', w'), rounded up at stride 32."""
    if stride == 4:
        return nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
            LayerNorm2d(dim, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, stride=2),
        )
    if stride == 8:
        return nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, stride=2))
    return nn.Identity() if stride == PATCH_SIZE else nn.MaxPool2d(2, ceil_mode=True)


@register(MODELS)
class SuperViT(Backbone, Trunk):
    """SuperViT for dense prediction: four maps at strides 4, 8, 16, 32, all of width ``dim``.

    Map i is (B, dim, H', W') with ``H' = ceil(H / stride)``: the tokens after one block, normed by
    the network's final norm and resampled. Blocks after the last one tapped are not built.

    Args:
        out_indices: levels of the pyramid: 0 is stride 4, 3 is stride 32.
        frozen_stages: 0 freezes the stem (patches, class token, position tables), i also the first
            i quarters of the blocks, 4 also the final norm. The pyramid, which no file holds, is
            always trained.
        norm_eval: speaks of the BatchNorms in the stem of ``lvvit_s``; there are no others.
        taps: the blocks to read, 0-based: one for all maps, as in ViTDet, or one per entry of
            ``out_indices``, as in BEiT with UPerNet. None taps the last block of each quarter:
            (2, 5, 8, 11) of 12 blocks, (3, 7, 11, 15) of 16.
        operating_point: an :class:`OperatingPoint` or a dict of its fields, what is left out being
            1. None stands for (1, 1), the plain network.

    Attributes:
        operating_point: may be set at any time, to what the constructor takes; the next forward
            passes run there. Weights, shapes of the outputs and their strides are the same at all
            points. At scale s a side of S pixels is computed as ``max(16, 16 round(s S / 16))``.

    The other arguments are those of :class:`~vitbackbones.backbones.options.Options`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride, or has so few
            patches that the keep rate's share of them is less than one token.
    """

    archs = ARCHS
    arch_type = SuperViTArch
    family = 'SuperViT'
    checkpoint_names = CHECKPOINT_NAMES
    attends = r'blocks\.\d+\.attn', 'class_token'
    arch: SuperViTArch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'deit_s',
        *,
        taps: Sequence[int] | None = None,
        operating_point: OperatingPoint | Mapping[str, float] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(arch, **options)
        a = self.arch
        self.taps = self._resolve_taps(taps)
        self.operating_point = operating_point
        self.out_channels = (a.dim,) * len(self.out_indices)

        (rates,) = self.drop_path_rates([a.depth])
        self.build_trunk(a, self.in_channels, rates[: max(self.taps) + 1])
        self.pyramid = nn.ModuleDict(
            {str(i): pyramid_level(a.dim, self.strides[i]) for i in self.out_indices}
        )
        self.apply(init_transformer)
        self.finish()

    @property
    def operating_point(self) -> OperatingPoint:
        return self._operating_point

    @operating_point.setter
    def operating_point(self, value: OperatingPoint | Mapping[str, float] | None) -> None:
        self._operating_point = OperatingPoint.of(value)

    def _resolve_taps(self, taps: Sequence[int] | None) -> tuple[int, ...]:
        """The block behind each output."""
        depth, outputs = self.arch.depth, len(self.out_indices)
        if taps is None:
            ends = quarters(depth)
            return tuple(ends[i] - 1 for i in self.out_indices)
        blocks = int_tuple(taps)
        if (
            blocks is None
            or len(blocks) not in (1, outputs)
            or not set(blocks) <= set(range(depth))
        ):
            raise ValueError(
                f'SuperViT: taps={taps} must be one block, or one per output level '
                f'({outputs} here), out of 0..{depth - 1}'
            )
        return blocks * outputs if len(blocks) == 1 else blocks

    def layers(self) -> list[Layer]:
        """The stem with class token and position tables, one layer per block, the rest.

        Stages are quarters of the blocks; the norm is of the last one, the pyramid of none.
        """
        return self.trunk_layers(self.arch.depth, self.pyramid)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[2:]
        h, w = ((side + PATCH_SIZE - 1) // PATCH_SIZE for side in (height, width))
        x = F.pad(x, (0, w * PATCH_SIZE - width, 0, h * PATCH_SIZE - height))
        point = self.operating_point
        if point.scale < 1:
            # What is resized is the padded image, so that tokens lie where those of scale 1 do.
            size = (point.resized(height, PATCH_SIZE), point.resized(width, PATCH_SIZE))
            x = F.interpolate(x, size, mode='bilinear', align_corners=True)
        maps = self._token_maps(x)
        if point.scale < 1:
            maps = {
                tap: F.interpolate(y, (h, w), mode='bilinear', align_corners=False)
                for tap, y in maps.items()
            }
        outputs = []
        for level, tap, stride in zip(self.out_indices, self.taps, self.out_strides, strict=True):
            y = self.pyramid[str(level)](maps[tap])
            rows, columns = ((side + stride - 1) // stride for side in (height, width))
            outputs.append(y[:, :, :rows, :columns])
        return outputs

    def _token_maps(self, x: Tensor) -> dict[int, Tensor]:
        """(B, in_channels, 16 h, 16 w) -> per tap (B, C, h, w): the normed tokens after it."""
        h, w = (side // PATCH_SIZE for side in x.shape[2:])
        x = self.embed(x)  # (B, N, C)
        keep_rate, total = self.operating_point.keep_rate, x.shape[1]
        if keep_rate * total < 1:
            raise ValueError(
                f'operating_point: keep_rate={keep_rate} leaves less than one token of the '
                f'{total} of {h} x {w} patches; here it must be in [1/{total}, 1]'
            )
        maps = {}
        everything, positions = x, None  # all tokens, and which of them those at work are
        for i, block in enumerate(self.blocks):
            x, kept = self.run(block, x, keep_rate if i in DROPPING_BLOCKS else 1.0)
            if kept is not None or i in self.taps:
                everything = x if positions is None else scatter_tokens(everything, positions, x)
            if kept is not None:
                x = gather_tokens(x, kept)
                positions = kept if positions is None else positions.gather(1, kept)
            if i in self.taps:
                y = self.norm(everything[:, 1:])  # (B, h * w, C)
                maps[i] = y.transpose(1, 2).unflatten(2, (h, w))
        return maps

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the blocks after the last tap, which are not built here."""
        unbuilt = tuple(f'blocks.{i}.' for i in range(len(self.blocks), self.arch.depth))
        return {name: value for name, value in state.items() if not name.startswith(unbuilt)}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: class token and position tables."""
        return self.undecayed()
