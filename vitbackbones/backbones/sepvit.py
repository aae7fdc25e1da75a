"""SepViT: separable self-attention in windows.

Paper: Li et al., "SepViT: Separable Vision Transformer", arXiv 2203.15380 (sections 3.2 to 3.4).
In evaluation equal to the published dense network, and its parameters have the published names.

Deliberate differences from it: no unused classifier; drop path, freezing and outputs are options;
``window_token='learnable'`` keeps the learned window tokens of the paper's table 6 as one token
per block, whatever the number of windows (the published dense network falls back to zeros);
``mask_padding`` can hide the positions that a block pads.

Shapes: B batch, H x W map, C channels, ws window size, Nw windows, of which N are of one size and
have T tokens each, R tokens of all windows, d channels of a head, which are its piece of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vitbackbones.layers import (
    PIECE,
    DropPath,
    LayerNorm2d,
    Mlp,
    add_mlp,
    add_to,
    channels_first,
    invert,
    is_plain,
    lean,
    linear,
    one_graph,
    rows_at,
    to_map,
    to_rows,
    window_groups,
)
from vitbackbones.layers.conv import convolve
from vitbackbones.registry import MODELS, register

from .arch import Arch
from .base import Backbone, Layer, Options, in_stage, init_transformer


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

# The published dense network carries a classifier that it never uses. The classifier has a token
# for every window of a block, where we have at most one per block.
OFFICIAL_KEYS = (
    (r'norm\.', None),
    (r'head\.', None),
    (r'(blocks\.\d+\.\d+)\.win_tokens$', r'\1.win_token'),
)

# The classifier has no norm between stages. At 224 x 224 its blocks of window 14 in the third
# stage and those of the fourth see a single window, and have no attention between windows.
ABSENT_FROM_CLASSIFIER = (
    r'norm_list\.',
    r'blocks\.(2\.\d*[13579]|3\.\d+)\.(attn\.(PSA_qk|win_tokens_norm)\.|win_token$)',
)


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: strided convolution, then LayerNorm (paper section 3.2)."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, padding=kernel // 2)
        self.norm = LayerNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # copies the image alone
        return self.norm(convolve(self.proj, x))  # (B, C, H', W')


class ConditionalPositionEncoding(nn.Module):
    """PEG: ``x + dwconv3x3(x)`` (Chu et al., "Conditional Positional Encodings", section 3.2).

    ``forward``: the rows of a map (B, H * W, C), with its height and width -> rows.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, rows: Tensor, height: int, width: int) -> Tensor:
        return add_to(rows, to_rows(self.proj(to_map(rows, height, width))), self.proj)


class Windows:
    """Which rows a window's tokens are, and where they go.

    The rows of a map are its pixels, then one that stands for padding, then the learned window
    token if there is one. A window holds its own token, if it is cut off at the edge of the map
    one row for all its padding, and its pixels.

    Attributes:
        shapes: (N, T, padded pixels that the second row stands for) per group of equal windows.
        order: (R,), the rows of all windows, group by group.
        tokens: (Nw,), where in ``order`` the windows' own tokens are.
        pieces: (heads * Nw * ws * ws,), which head's piece of which row, as one of (R * heads), is
            at each position of a window, for one head after the other.
        inverse: (H * W * heads,), where among ``pieces`` each pixel's are.
        valid: (Nw, ws * ws), with ``mask_padding`` the positions of pixels; None if all are.
    """

    def __init__(
        self,
        height: int,
        width: int,
        size: int,
        num_heads: int,
        device: torch.device,
        *,
        learned_token: bool = False,
        mask_padding: bool = False,
        pad: bool = False,
    ) -> None:
        padding = height * width
        self.shapes = []
        order, tokens, places, pixels = [], [], [], []
        start = 0
        for group in window_groups(height, width, size, device, pad):
            n, wh, ww = group.shape
            missing = (0, size - ww, 0, size - wh)
            padded = 0 if mask_padding else size * size - wh * ww
            rows = group.flatten(1)
            # Sums, since torch.compile makes constants of what F.pad and torch.full fill in.
            front = torch.zeros_like(rows[:, :1])
            if padded:
                rows = torch.cat([front + padding, rows], 1)
            rows = torch.cat([front + (padding + int(learned_token)), rows], 1)  # (N, T)
            t = rows.shape[1]
            others = t - wh * ww  # the window token, and what stands for padding
            place = torch.arange(others, t, device=device).view(wh, ww)
            place = F.pad(place, missing, value=others - 1).flatten()  # (ws * ws,)
            first = start + t * torch.arange(n, device=device)
            order.append(rows.flatten())
            tokens.append(first)
            places.append(first[:, None] + place)
            if any(missing):
                group = F.pad(group, missing, value=padding)
            pixels.append(group.flatten(1))
            self.shapes.append((n, t, padded))
            start += n * t
        self.order, self.tokens = torch.cat(order), torch.cat(tokens)
        head = torch.arange(num_heads, device=device)
        place, pixel = torch.cat(places).flatten(), torch.cat(pixels).flatten()  # (Nw * ws * ws,)
        self.pieces = (place * num_heads + head[:, None]).flatten()
        self.inverse = (invert(pixel, padding)[:, None] + head * pixel.shape[0]).flatten()
        cut = mask_padding and (height % size or width % size)
        self.valid = torch.cat(pixels) < padding if cut else None


#: Windows are kept from one picture to the next: so many, of maps of so many pixels at most.
MOST_KEPT, LARGEST_KEPT = 16, 1 << 17
kept_windows = functools.lru_cache(MOST_KEPT)(Windows)


class SeparableAttention(nn.Module):
    """Depthwise attention inside each window, then pointwise attention between windows.

    Paper section 3.3, equations 1 to 3. ``forward`` takes the normed rows of a map, and returns
    its pixels (B, H * W, C), projected.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.DSA_qkv = nn.Linear(dim, 3 * dim)
        self.win_tokens_norm = nn.LayerNorm(dim)
        self.PSA_qk = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, windows: Windows) -> Tensor:
        x = self._depthwise(rows_at(rows, windows.order), windows)  # (B, R, C)
        weights = self._between(x.index_select(1, windows.tokens))
        return linear(self.proj, self._pointwise(x, weights, windows))

    def _depthwise(self, x: Tensor, windows: Windows) -> Tensor:
        """DSA with its residual: (B, R, C), same shape; overwrites ``x`` where nobody needs it."""
        b, rows, _ = x.shape
        lengths = [n * t for n, t, _ in windows.shapes]
        in_place = lean(x) and is_plain(self.DSA_qkv, nn.Linear)
        if in_place and b * rows > PIECE:
            for (_, t, padded), group in zip(windows.shapes, x.split(lengths, 1), strict=True):
                for part in group.split(max(PIECE // (b * t), 1) * t, 1):
                    part += self._within(linear(self.DSA_qkv, part), t, padded)
            return x
        parts = linear(self.DSA_qkv, x).split(lengths, 1)
        outputs = [
            self._within(part, t, padded)
            for (_, t, padded), part in zip(windows.shapes, parts, strict=True)
        ]
        if not in_place:
            return x + torch.cat(outputs, 1)
        for part, y in zip(x.split(lengths, 1), outputs, strict=True):
            part += y
        return x

    def _within(self, qkv: Tensor, t: int, padded: int) -> Tensor:
        """Attention in each of N windows of T tokens: (B, N * T, 3 * C) -> (B, N * T, C)."""
        b, length, width = qkv.shape
        qkv = qkv.unflatten(1, (-1, t)).flatten(0, 1).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B * N, heads, T, d) each
        mask = None
        if padded:  # the second key counts that many times: its logarithm is added
            mask = q.new_zeros(t)
            mask[1] = math.log(padded)
            mask = mask.expand(1, 1, t, t)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).reshape(b, length, width // 3)

    def _between(self, token: Tensor) -> Tensor:
        """What windows take from one another: tokens (B, Nw, C) -> (B, heads, Nw, Nw)."""
        token = F.gelu(self.win_tokens_norm(token))
        q, k = self.PSA_qk(token).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)

    def _pointwise(self, x: Tensor, weights: Tensor, windows: Windows) -> Tensor:
        """PSA with its residual: windows exchange pixels, position by position, (B, H * W, C).

        Reads tokens (B, R, C). Pieces of the width of a head are gathered so that every head's lie
        together for the product.
        """
        heads, nw = weights.shape[1:3]
        pieces = x.unflatten(2, (heads, -1)).flatten(1, 2)  # (B, R * heads, d)
        v = rows_at(pieces, windows.pieces)
        v = v.unflatten(1, (heads, nw, -1)).flatten(3)  # (B, heads, Nw, ws * ws * d)
        if windows.valid is None:
            own = torch.eye(nw, dtype=weights.dtype, device=x.device)  # the residual
            y = (weights + own) @ v.to(weights.dtype)
        else:  # at each position only the windows in which it exists are weighed
            valid = windows.valid.to(weights.dtype)
            total = (weights @ valid).clamp(min=torch.finfo(weights.dtype).tiny)
            v = v.unflatten(3, (valid.shape[1], -1)) * valid[..., None]
            y = (weights @ v.flatten(3)).view_as(v) / total[..., None] + v
        pieces = y.reshape(y.shape[0], windows.pieces.shape[0], x.shape[2] // heads)
        return rows_at(pieces, windows.inverse).unflatten(1, (-1, heads)).flatten(2)


class Block(nn.Module):
    """SepViT block: separable attention and MLP, each with norm and residual (section 3.3).

    ``forward`` takes and returns the rows of a map (B, H * W, C).
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: int, drop_path: float, learnable_token: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SeparableAttention(dim, num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.win_token = nn.Parameter(torch.zeros(dim)) if learnable_token else None

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        # Padding comes before the norm: padded pixels and zero tokens become the norm's bias.
        parts = [x, x.new_zeros(x.shape[0], 1, x.shape[2])]
        if self.win_token is not None:
            parts.append(self.win_token.to(x.dtype).expand_as(parts[1]))
        y = self.attn(self.norm1(torch.cat(parts, 1)), windows)
        x = add_to(x, self.drop_path(y), self.attn, self.drop_path)
        return add_mlp(x, self.norm2, self.mlp, self.drop_path)


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

    The other arguments are those of :class:`~vitbackbones.backbones.base.Backbone`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride.
    """

    archs = ARCHS
    arch_type = SepViTArch
    official_keys = OFFICIAL_KEYS
    absent_from_classifier = ABSENT_FROM_CLASSIFIER
    family = 'SepViT'
    stem_weight = 'patch_embeds.0.proj.weight'
    arch: SepViTArch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        window_token: str = 'zero',
        mask_padding: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(arch, **options)
        if window_token not in ('zero', 'learnable'):
            raise ValueError(
                f"SepViT: unknown window_token {window_token!r}, choose from 'zero', 'learnable'"
            )
        self.window_token = window_token
        self.mask_padding = mask_padding
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
                    Block(
                        dim,
                        a.num_heads[i],
                        a.mlp_ratio,
                        rate,
                        learnable_token=window_token == 'learnable',
                    )
                    for rate in rates[i]
                )
            )
            self.norm_list.append(nn.LayerNorm(dim, eps=1e-6))
        self.apply(init_transformer)
        self.finish()

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
                stage[-1] += in_stage(i + 1, self.norm_list[i])
            layers += stage
        return [*layers, in_stage(self.num_stages, self.norm_list[-1])]

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The classifier's tokens, one per window of a block: their mean, or none if unused."""
        adapted = {}
        for name, value in state.items():
            if name.endswith('.win_token') and value.ndim == 4:  # (1, Nw, 1, C)
                if self.window_token == 'zero':
                    continue
                value = value.mean((0, 1, 2))  # (C,)
            adapted[name] = value
        return adapted

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> one (B, C, H', W') map per entry of ``out_indices``."""
        self.check_input(x)
        outputs = []
        for i in range(self.num_stages):
            x = self.patch_embeds[i](x)  # (B, C, H', W')
            height, width = x.shape[2:]
            sizes = self.arch.window_sizes[i]
            windows = {size: self.windows(x, size, self.arch.num_heads[i]) for size in set(sizes)}
            rows = to_rows(x)
            for j, (block, size) in enumerate(zip(self.blocks[i].children(), sizes, strict=True)):
                rows = self.run(block, rows, windows[size])
                if j == 0:
                    rows = self.pos_block[i](rows, height, width)
            rows = self.norm_list[i](rows)
            if i in self.out_indices:
                outputs.append(channels_first(to_map(rows, height, width)))
            x = to_map(rows, height, width)
        return tuple(outputs)

    def windows(self, x: Tensor, size: int, num_heads: int) -> Windows:
        """How a map (B, C, H, W) is cut into windows."""
        height, width = x.shape[2:]
        kept = lean(x) and height * width <= LARGEST_KEPT
        return (kept_windows if kept else Windows)(
            height,
            width,
            size,
            num_heads,
            x.device,
            learned_token=self.window_token == 'learnable',
            mask_padding=self.mask_padding,
            # The number of groups would follow the size; but cut windows are how padding is masked.
            pad=one_graph(height, width) and not self.mask_padding,
        )

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: learned window tokens."""
        return {name for name, _ in self.named_parameters() if name.endswith('.win_token')}
