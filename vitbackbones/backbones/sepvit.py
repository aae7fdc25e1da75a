"""SepViT: separable self-attention in windows.

Paper: Li et al., "SepViT: Separable Vision Transformer", arXiv 2203.15380 (sections 3.2 to 3.4).
In evaluation equal to the published dense network, and its parameters have the published names.

Deliberate differences from it: no unused classifier; drop path, freezing and outputs are options;
``window_token='learnable'`` keeps the learned window tokens of the paper's table 6 as one token
per block, whatever the number of windows (the published dense network falls back to zeros);
``mask_padding`` can hide the positions that a block pads; ``trunk='classifier'`` is the trunk of
the published classifier, another one, and for images of any size.

Shapes: B batch, H x W map, C channels, d of a head; ws window size, Nw windows, of which N are of
one size and have T tokens each, R tokens of all windows; L pixels of a map and its other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vitbackbones.layers.blocks import DropPath, LayerNorm2d, Mlp
from vitbackbones.layers.conv import channels_last, conv
from vitbackbones.layers.fast import add_attention, add_mlp, linear, residual_add
from vitbackbones.layers.initialisation import init_stem_bias, init_transformer
from vitbackbones.layers.layout import to_map, to_tokens
from vitbackbones.layers.window import OwnToken, TokenGroup, TokenWindows, token_windows
from vitbackbones.registry import MODELS, register

from .arch import Arch
from .base import Backbone, CheckpointNames, Layer, Options, in_stage


@dataclass(frozen=True, kw_only=True)
class SepViTArch(Arch):
    """Window sizes are given per block: 7 is the paper's DSSA block, 14 its GSA block."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[tuple[int, ...], ...]
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = [len(w) if isinstance(w, tuple) else None for w in self.window_sizes]
        if lengths != [*self.depths]:
            raise ValueError(
                f'window_sizes={self.window_sizes} must list one size per block, '
                f'depths={self.depths}'
            )
        if any(dim % heads for dim, heads in zip(self.dims, self.num_heads, strict=True)):
            raise ValueError(f'dims={self.dims} must be multiples of num_heads={self.num_heads}')


def _windows(depth_of_stage_3: int) -> tuple[tuple[int, ...], ...]:
    return (7,), (7, 14), (7, 14) * (depth_of_stage_3 // 2), (7, 7)


ARCHS = {
    'lite': SepViTArch(
        dims=(32, 64, 128, 256),
        depths=(1, 2, 6, 2),
        num_heads=(1, 2, 4, 8),
        window_sizes=_windows(6),
    ),
    'tiny': SepViTArch(
        dims=(96, 192, 384, 768),
        depths=(1, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_sizes=_windows(6),
        drop_path_rate=0.2,
    ),
    'small': SepViTArch(
        dims=(96, 192, 384, 768),
        depths=(1, 2, 14, 2),
        num_heads=(3, 6, 12, 24),
        window_sizes=_windows(14),
        drop_path_rate=0.3,
    ),
    'base': SepViTArch(
        dims=(128, 256, 512, 1024),
        depths=(1, 2, 14, 2),
        num_heads=(4, 8, 16, 32),
        window_sizes=_windows(14),
        drop_path_rate=0.5,
    ),
}

# The classifier has a token for every window of a block, the dense network at most one per block.
_WINDOW_TOKENS = (r'(blocks\.\d+\.\d+)\.win_tokens$', r'\1.win_token')
CHECKPOINT_NAMES = CheckpointNames(
    # The published dense network carries a classifier that it never uses.
    official=((r'norm\.', None), (r'head\.', None), _WINDOW_TOKENS),
    # The classifier has no norm between stages. At 224 x 224 its blocks of window 14 in the third
    # stage and those of the fourth see a single window, and have no attention between windows.
    absent_from_classifier=(
        r'norm_list\.',
        r'blocks\.(2\.\d*[13579]|3\.\d+)\.(attn\.(PSA_qk|win_tokens_norm)\.|win_token$)',
    ),
    classifier_options={'trunk': 'classifier'},
    stem=('patch_embeds.0.proj.weight',),
)
CLASSIFIER_NAMES = CheckpointNames(
    official=((r'head\.', None), _WINDOW_TOKENS),
    classifier_options={'trunk': 'classifier'},
    stem=('patch_embeds.0.proj.weight',),
)

# Side of the images that classifiers were published for: it fixes their windows.
CLASSIFIED_SIDE = 224


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: strided convolution, then LayerNorm (paper section 3.2)."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, padding=kernel // 2)
        self.norm = LayerNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(conv(self.proj, channels_last(x)))  # (B, C, H', W')


class ConditionalPositionEncoding(nn.Module):
    """PEG: ``x + dwconv3x3(x)`` (Chu et al., "Conditional Positional Encodings", section 3.2).

    ``forward``: the tokens of a map (B, H * W, C), with its height and width -> same shape.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return residual_add(x, to_tokens(self.proj(to_map(x, height, width))))


class SeparableAttention(nn.Module):
    """Attention inside each window, then between windows (section 3.3, equations 1 to 3).

    ``forward``: the normed tokens of a map (B, L, C), cut into windows -> its pixels (B, H * W, C).
    Without ``exchanges`` there is no attention between windows.
    """

    def __init__(self, dim: int, num_heads: int, exchanges: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.exchanges = exchanges
        self.DSA_qkv = nn.Linear(dim, 3 * dim)
        if exchanges:
            self.win_tokens_norm = nn.LayerNorm(dim)
            self.PSA_qk = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: TokenWindows) -> Tensor:
        x = add_attention(windows.split(x), windows.groups, self.DSA_qkv, self.inside)  # (B, R, C)
        pixels = windows.by_position(x)  # (B, heads, Nw, ws * ws * d)
        if self.exchanges:
            weights = self.between(x.index_select(1, windows.tokens))  # (B, heads, Nw, Nw)
            pixels = self.exchange(pixels, weights, windows.present)
        return linear(self.proj, windows.merge(pixels))

    def inside(self, qkv: Tensor, group: TokenGroup) -> Tensor:
        """Equation 1, depthwise: windows of one size, (B, N * T, 3 * C) -> (B, N * T, C)."""
        b, length, width = qkv.shape
        qkv = qkv.unflatten(1, (-1, group.length)).flatten(0, 1)  # (B * N, T, 3 * C)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = None
        if group.padding:  # one token stands for all the padding of its window: log(n) more weight
            bias = q.new_zeros(group.length)
            bias[group.padding_at] = math.log(group.padding)
            bias = bias.expand(1, 1, group.length, group.length)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B * N, heads, T, d)
        return x.transpose(1, 2).reshape(b, length, width // 3)

    def between(self, tokens: Tensor) -> Tensor:
        """Equation 2: how much each window takes of each, (B, Nw, C) -> (B, heads, Nw, Nw)."""
        qk = self.PSA_qk(F.gelu(self.win_tokens_norm(tokens)))
        q, k = qk.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (q * q.shape[3] ** -0.5 @ k.mT).softmax(dim=-1)

    def exchange(self, x: Tensor, weights: Tensor, present: Tensor | None) -> Tensor:
        """Equation 3, pointwise, with its residual: (B, heads, Nw, ws * ws * d), same shape.

        Windows exchange pixels, position by position; those that have none there, of which
        ``present`` tells, are not weighed.
        """
        if present is None:
            own = torch.eye(weights.shape[2], dtype=weights.dtype, device=x.device)  # the residual
            return (weights + own) @ x.to(weights.dtype)
        present = present.to(weights.dtype)  # (Nw, ws * ws)
        total = (weights @ present).clamp(min=torch.finfo(weights.dtype).tiny)
        x = x.unflatten(3, (present.shape[1], -1)) * present[..., None]
        return ((weights @ x.flatten(3)).view_as(x) / total[..., None] + x).flatten(3)


class Block(nn.Module):
    """SepViT block: separable attention and MLP, each with norm and residual (section 3.3).

    ``forward`` takes and returns the tokens of a map (B, H * W, C). Its windows' own token is that
    of padding, a zero, or learned: one that they share, or one for each of a square of
    ``num_windows``, resized bicubically for maps of other sizes. Without own tokens there is no
    attention between windows.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        drop_path: float,
        own_token: OwnToken,
        num_windows: int = 1,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SeparableAttention(dim, num_heads, exchanges=own_token != 'none')
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.own_token = own_token
        self.win_token = None
        if own_token == 'shared':
            self.win_token = nn.Parameter(torch.zeros(dim))
        elif own_token == 'each':
            self.win_token = nn.Parameter(torch.empty(1, num_windows, 1, dim))
            nn.init.trunc_normal_(self.win_token, std=0.02)

    def forward(self, x: Tensor, windows: TokenWindows) -> Tensor:
        # Padding comes before the norm: padded pixels and zero tokens become the norm's bias.
        others = [x.new_zeros(x.shape[0], 1, x.shape[2])]
        if self.win_token is not None:
            each = self.own_token == 'each'
            own = _of_grid(self.win_token, windows.grid) if each else self.win_token[None]  # (_, C)
            others.append(own.to(x.dtype).expand(x.shape[0], -1, x.shape[2]))
        tokens = self.norm1(torch.cat([x, *others], 1))
        x = residual_add(x, self.drop_path(self.attn(tokens, windows)))
        return add_mlp(x, self.norm2, self.mlp, self.drop_path)


def _of_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, side * side, 1, C), one for each of a square of windows -> those of a grid (Nw, C)."""
    side = math.isqrt(tokens.shape[1])
    square = tokens[:, :, 0].mT.unflatten(2, (side, side))  # (1, C, side, side)
    resized = F.interpolate(square, grid, mode='bicubic', align_corners=False)  # or as it is
    return resized[0].flatten(1).mT


@register(MODELS)
class SepViT(Backbone):
    """SepViT for dense prediction: four maps at strides 4, 8, 16, 32.

    Maps are (B, dims[i], H', W') with ``H' = ceil(H / stride)``, after a LayerNorm that is part of
    the trunk: the next stage reads the normed map.

    Args:
        window_token: ``'zero'``, as in the published dense network, or ``'learnable'``, one
            learned token per block (paper table 6).
        mask_padding: True hides the positions that a block itself pads up to a multiple of its
            window; in the published network they take part. What the batch canvas adds around an
            image cannot be told from the image here: a backbone gets only a tensor.
        trunk: ``'dense'``, or ``'classifier'``, what the published classifier is built on: no norm
            between stages but one after the last, a learned token for each window, and no
            attention between windows where 224 x 224 pixels have a single one.

    The other arguments are those of :class:`~vitbackbones.backbones.options.Options`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride.
    """

    archs = ARCHS
    arch_type = SepViTArch
    family = 'SepViT'
    checkpoint_names = CHECKPOINT_NAMES
    attends = r'blocks\.\d+\.\d+\.attn', 'separable'
    arch: SepViTArch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        window_token: str = 'zero',
        mask_padding: bool = False,
        trunk: str = 'dense',
        **options: Unpack[Options],
    ) -> None:
        super().__init__(arch, **options)
        for name, value, choices in (
            ('window_token', window_token, ('zero', 'learnable')),
            ('trunk', trunk, ('dense', 'classifier')),
        ):
            if value not in choices:
                raise ValueError(
                    f'SepViT: unknown {name} {value!r}, choose from {", ".join(map(repr, choices))}'
                )
        self.window_token = window_token
        self.mask_padding = mask_padding
        self.trunk = trunk
        if trunk == 'classifier':
            self.checkpoint_names = CLASSIFIER_NAMES
        a = self.arch
        rates = self.drop_path_rates(a.depths)
        self.out_channels = tuple(a.dims[i] for i in self.out_indices)

        self.norm_list = nn.ModuleList()
        self.patch_embeds = nn.ModuleList()
        self.pos_block = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for i in range(self.num_stages):
            dim = a.dims[i]
            self.patch_embeds.append(
                PatchEmbed(a.dims[i - 1], dim, 3, 2)
                if i
                else PatchEmbed(self.in_channels, dim, 7, 4)
            )
            self.pos_block.append(ConditionalPositionEncoding(dim))
            self.blocks.append(
                nn.ModuleList(
                    Block(dim, a.num_heads[i], a.mlp_ratio, rate, *self._own_tokens(i, size))
                    for rate, size in zip(rates[i], a.window_sizes[i], strict=True)
                )
            )
            if trunk == 'dense':
                self.norm_list.append(nn.LayerNorm(dim, eps=1e-6))
        has_norm = trunk == 'classifier' and self.num_stages == len(self.strides)
        self.norm = nn.LayerNorm(a.dims[-1], eps=1e-6) if has_norm else None
        self.apply(init_transformer)
        self.patch_embeds[0].apply(init_stem_bias)
        self.finish()

    def _own_tokens(self, stage: int, window_size: int) -> tuple[OwnToken, int]:
        """The own tokens of a block's windows, and how many windows it was published with."""
        if self.trunk == 'dense':
            return ('shared' if self.window_token == 'learnable' else 'padding'), 1
        windows = math.ceil(CLASSIFIED_SIDE // self.strides[stage] / window_size) ** 2
        return ('each' if windows > 1 else 'none'), windows

    def _norm_after(self, stage: int) -> nn.Module | None:
        if self.trunk == 'dense':
            return self.norm_list[stage]
        return self.norm if stage == len(self.strides) - 1 else None

    def layers(self) -> list[Layer]:
        """The stem, one layer per block, the norm of the last stage.

        A patch embedding counts to the block that follows it, a position encoding to the block
        before it, the norm of any other stage to the stage's last block.
        """
        layers = [in_stage(0, self.patch_embeds[0])]
        for i, blocks in enumerate(self.blocks):
            stage = [in_stage(i + 1, block) for block in blocks.children()]
            stage[0] += in_stage(i + 1, self.patch_embeds[i] if i else None, self.pos_block[i])
            if i < self.num_stages - 1:
                stage[-1] += in_stage(i + 1, self._norm_after(i))
            layers += stage
        return [*layers, in_stage(self.num_stages, self._norm_after(self.num_stages - 1))]

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The classifier's tokens, one per window of a block: their mean, or none if unused."""
        adapted = {}
        for name, value in state.items():
            if self.trunk == 'dense' and name.endswith('.win_token') and value.ndim == 4:
                # (1, Nw, 1, C)
                if self.window_token == 'zero':
                    continue
                value = value.mean((0, 1, 2))  # (C,)
            adapted[name] = value
        return adapted

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i in range(self.num_stages):
            x = self.patch_embeds[i](x)  # (B, C, H', W')
            height, width = x.shape[2:]
            sizes = self.arch.window_sizes[i]
            blocks: list[Any] = [*zip(self.blocks[i].children(), sizes, strict=True)]
            windows = {
                (size, own): token_windows(
                    x, size, self.arch.num_heads[i], own=own, mask_padding=self.mask_padding
                )
                for size, own in {(size, block.own_token) for block, size in blocks}
            }
            tokens = to_tokens(x)
            for j, (block, size) in enumerate(blocks):
                tokens = self.run(block, tokens, windows[size, block.own_token])
                if j == 0:
                    tokens = self.pos_block[i](tokens, height, width)
            norm = self._norm_after(i)
            x = to_map(tokens if norm is None else norm(tokens), height, width)
            if i in self.out_indices:
                maps.append(x)
        return maps

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: position encodings, learned window tokens."""
        names = (name for name, _ in self.named_parameters())
        return {n for n in names if n.startswith('pos_block.') or n.endswith('.win_token')}
