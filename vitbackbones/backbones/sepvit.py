"""SepViT: separable self-attention in windows.

Paper: Li et al., "SepViT: Separable Vision Transformer", arXiv 2203.15380 (sections 3.2 to 3.4).
In evaluation equal to the published dense network, and its parameters have the published names.

Deliberate differences from it: no unused classifier; drop path, freezing and outputs are options;
``window_token='learnable'`` keeps the learned window tokens of the paper's table 6 as one token
per block, whatever the number of windows (the published dense network falls back to zeros);
``mask_padding`` can hide the positions that a block pads.

Shapes: B batch, H x W map, C channels, ws window size, Nw windows, T = ws * ws + 1 tokens of a
window, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.layers import (
    DropPath,
    Mlp,
    pad_to_multiple,
    window_merge,
    window_split,
    window_valid,
)
from vitbackbones.registry import MODELS, register

from .base import Arch, Backbone, init_transformer


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
        if tuple(map(len, self.window_sizes)) != self.depths:
            raise ValueError(f'window_sizes must list one size per block, depths={self.depths}')
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
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H', W', C')


class ConditionalPositionEncoding(nn.Module):
    """PEG: ``x + dwconv3x3(x)`` (Chu et al., "Conditional Positional Encodings", section 3.2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SeparableAttention(nn.Module):
    """Depthwise attention inside each window, then pointwise attention between windows.

    Paper section 3.3, equations 1 to 3. ``forward`` takes the normed windows (B, Nw, ws * ws, C)
    and the normed window token (C,), and returns (B, Nw, ws * ws, C) before the projection.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.DSA_qkv = nn.Linear(dim, 3 * dim)
        self.win_tokens_norm = nn.LayerNorm(dim)
        self.PSA_qk = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, pixels: Tensor, token: Tensor, valid: Tensor | None) -> Tensor:
        b, nw, area, c = pixels.shape
        x = torch.cat([token.expand(b, nw, 1, c), pixels], dim=2)  # (B, Nw, T, C)
        x = x + self._depthwise(x, valid)
        token, pixels = x[:, :, 0], x[:, :, 1:]  # (B, Nw, C), (B, Nw, ws * ws, C)
        return pixels + self._pointwise(token, pixels, valid)

    def _depthwise(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """DSA: (B, Nw, T, C) -> (B, Nw, T, C); ``valid`` (Nw, ws * ws) says which pixels count."""
        b, nw, t, c = x.shape
        qkv = self.DSA_qkv(x).view(b * nw, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B * Nw, heads, T, d) each
        mask = None
        if valid is not None:
            mask = F.pad(valid, (1, 0), value=True)  # the window token always counts
            mask = mask.repeat(b, 1)[:, None, None]  # (B * Nw, 1, 1, T)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x.transpose(1, 2).reshape(b, nw, t, c)

    def _pointwise(self, token: Tensor, pixels: Tensor, valid: Tensor | None) -> Tensor:
        """PSA: windows exchange their pixels, position by position, weighted by their tokens."""
        b, nw, area, c = pixels.shape
        heads, d = self.num_heads, c // self.num_heads
        token = F.gelu(self.win_tokens_norm(token))
        q, k = self.PSA_qk(token).view(b, nw, 2, heads, d).permute(2, 0, 3, 1, 4)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, Nw, Nw)
        v = pixels.unflatten(-1, (heads, d)).permute(0, 3, 1, 2, 4)  # (B, heads, Nw, ws * ws, d)
        if valid is None:
            x = weights @ v.reshape(b, heads, nw, area * d)
        else:  # at each position only the windows in which it exists are weighed
            v = v * valid[:, :, None]
            x = weights @ v.reshape(b, heads, nw, area * d)
            total = weights @ valid.to(weights.dtype)  # (B, heads, Nw, ws * ws)
            tiny = torch.finfo(total.dtype).tiny
            x = (x.view(b, heads, nw, area, d) / total.clamp(min=tiny)[..., None]).flatten(-2)
        x = x.view(b, heads, nw, area, d).permute(0, 2, 3, 1, 4)
        return x.reshape(b, nw, area, c)


class Block(nn.Module):
    """SepViT block: separable attention and MLP, each with norm and residual (section 3.3)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: int,
        drop_path: float,
        learnable_token: bool,
        mask_padding: bool,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.mask_padding = mask_padding
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SeparableAttention(dim, num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.win_token = nn.Parameter(torch.zeros(dim)) if learnable_token else None

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        ws = self.window_size
        # Padding comes before the norm: padded pixels and zero tokens become the norm's bias.
        pixels = window_split(self.norm1(pad_to_multiple(x, ws)), ws)
        token = self.norm1.bias if self.win_token is None else self.norm1(self.win_token)
        valid = window_valid(x, ws) if self.mask_padding else None
        y = self.attn(pixels, token.to(pixels.dtype), valid)
        y = self.attn.proj(window_merge(y, ws, h, w))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


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
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float | None = None,
        window_token: str = 'zero',
        mask_padding: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            arch,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
        )
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
                PatchEmbed(a.dims[i - 1], dim, 3, 2) if i else PatchEmbed(in_channels, dim, 7, 4)
            )
            self.pos_block.append(ConditionalPositionEncoding(dim))
            self.blocks.append(
                nn.ModuleList(
                    Block(
                        dim,
                        a.num_heads[i],
                        window_size,
                        a.mlp_ratio,
                        rate,
                        learnable_token=window_token == 'learnable',
                        mask_padding=mask_padding,
                    )
                    for window_size, rate in zip(a.window_sizes[i], rates[i], strict=True)
                )
            )
            self.norm_list.append(nn.LayerNorm(dim, eps=1e-6))
        self.apply(init_transformer)
        self.finish()

    def stage_modules(self) -> list[list[nn.Module]]:
        stages: list[list[nn.Module]] = [
            [self.blocks[i], self.pos_block[i], self.norm_list[i]] for i in range(self.num_stages)
        ]
        for i in range(1, self.num_stages):
            stages[i].append(self.patch_embeds[i])
        return [[self.patch_embeds[0]], *stages]

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
            x = self.patch_embeds[i](x)  # (B, H', W', C)
            for j, block in enumerate(self.blocks[i].children()):
                x = self.run(block, x)
                if j == 0:
                    x = self.pos_block[i](x)
            x = self.norm_list[i](x).permute(0, 3, 1, 2)  # (B, C, H', W'), channels-last memory
            if i in self.out_indices:
                # In memory too: mmcv's RoIAlign reads any other order wrongly.
                outputs.append(x.contiguous())
        return tuple(outputs)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """The layer of a parameter and the number of layers, for layer-wise learning rates.

        Layer 0 is the stem, then comes one layer per block; a patch embedding counts to the block
        that follows it, a position encoding to the block before it. The norm of a stage counts to
        the stage's last block, that of the last stage, and whatever is not under ``prefix``, to
        the last layer.
        """
        depths = self.arch.depths[: self.num_stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, stage, *path = param_name[len(prefix) :].split('.')
        i = int(stage)
        first = sum(depths[:i]) + 1  # layer of the stage's first block
        if part == 'patch_embeds':
            return (first if i else 0), num_layers
        if part == 'pos_block':
            return first, num_layers
        if part == 'blocks':
            return first + int(path[0]), num_layers
        last_stage = i == self.num_stages - 1
        return first + depths[i] - (not last_stage), num_layers

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: learned window tokens."""
        return {name for name, _ in self.named_parameters() if name.endswith('.win_token')}
