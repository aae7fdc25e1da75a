"""GC ViT: attention in local windows, every other block with one global query per image.

Paper: Hatamizadeh et al., "Global Context Vision Transformers", arXiv 2206.09959. In evaluation
equal to the published dense network, and its parameters have the published names. (Where the
paper's text down-samples by max-pooling, the published network has a strided convolution.)

Deliberate differences from it: no unused parts; drop path, freezing and outputs are options;
position bias tables of another window are resized in the state dict, whenever one is loaded, and
a table of the right size is never touched; new tables are drawn like the other weights instead of
being zero; ``mask_padding`` can hide the positions that a block pads.

Shapes: B batch, H x W map, C channels, ws window size, N windows of wh x ww positions (ws x ws but
for those cut off at the edge of the map), T = wh * ww, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from vitbackbones.layers.attention import attention_with_bias
from vitbackbones.layers.blocks import DropPath, LayerNorm2d, Mlp
from vitbackbones.layers.conv import channels_last, conv, residual_sequence
from vitbackbones.layers.fast import add_mlp, linear, linear_with_zeros, multiply, residual_add
from vitbackbones.layers.initialisation import init_stem_bias, init_transformer
from vitbackbones.layers.layout import to_map, to_tokens
from vitbackbones.layers.position_bias import PositionBias, resize_table
from vitbackbones.layers.window import Windows, cut_windows
from vitbackbones.registry import MODELS, register

from .arch import Arch, int_tuple
from .base import Backbone, CheckpointNames, Layer, Options, in_stage


@dataclass(frozen=True, kw_only=True)
class GCViTArch(Arch):
    """Level i is ``dim * 2**i`` wide. Without ``layer_scale`` the residual branches have none."""

    dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: int = 3
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if any((self.dim << i) % heads for i, heads in enumerate(self.num_heads)):
            dims = [self.dim << i for i in range(len(self.num_heads))]
            raise ValueError(f'widths {dims} must be multiples of num_heads={self.num_heads}')


# Drop path: 0.2 is published for dense use of tiny. No other variant has a dense recipe, so the
# others, from tiny2 on higher, take the rate of their classifier.
ARCHS = {
    'xxtiny': GCViTArch(dim=64, depths=(2, 2, 6, 2), num_heads=(2, 4, 8, 16), drop_path_rate=0.2),
    'xtiny': GCViTArch(dim=64, depths=(3, 4, 6, 5), num_heads=(2, 4, 8, 16), drop_path_rate=0.2),
    'tiny': GCViTArch(dim=64, depths=(3, 4, 19, 5), num_heads=(2, 4, 8, 16), drop_path_rate=0.2),
    'tiny2': GCViTArch(dim=64, depths=(3, 4, 29, 5), num_heads=(2, 4, 8, 16), drop_path_rate=0.25),
    'small': GCViTArch(
        dim=96,
        depths=(3, 4, 19, 5),
        num_heads=(3, 6, 12, 24),
        mlp_ratio=2,
        layer_scale=1e-5,
        drop_path_rate=0.3,
    ),
    'small2': GCViTArch(
        dim=96,
        depths=(3, 4, 23, 5),
        num_heads=(3, 6, 12, 24),
        layer_scale=1e-5,
        drop_path_rate=0.35,
    ),
    'base': GCViTArch(
        dim=128,
        depths=(3, 4, 19, 5),
        num_heads=(4, 8, 16, 32),
        mlp_ratio=2,
        layer_scale=1e-5,
        drop_path_rate=0.5,
    ),
    'large': GCViTArch(
        dim=192,
        depths=(3, 4, 19, 5),
        num_heads=(6, 12, 24, 48),
        mlp_ratio=2,
        layer_scale=1e-5,
        drop_path_rate=0.5,
    ),
}

# timm counts a down-sampler to the level that follows it, and query layers from 1. The first table
# says where residual convolutions are, the second what their layers are called.
_CONV_BRANCHES = (
    (r'stem\.down\.conv_block', 'patch_embed.conv_down.conv'),
    *(
        (rf'stages\.{i + 1}\.downsample\.conv_block', f'levels.{i}.downsample.conv')
        for i in range(3)
    ),
    *(
        (
            rf'stages\.(\d)\.global_block\.blocks\.conv{j + 1}',
            rf'levels.\1.q_global_gen.to_q_global.{j}.conv',
        )
        for j in range(3)
    ),
)
_CONV_LAYERS = (
    (r'conv_dw', '0'),
    (r'se\.fc1', '2.fc.0'),
    (r'se\.fc2', '2.fc.2'),
    (r'conv_pw', '3'),
)
CHECKPOINT_NAMES = CheckpointNames(
    official=(  # without the classifier, and the position index, which follows from the window size
        (r'norm\.', None),
        (r'head\.', None),
        (r'levels\.\d+\.blocks\.\d+\.attn\.relative_position_index$', None),
    ),
    timm=(
        (r'head\.', None),
        (r'stages\.3\.norm\.', None),
        *(
            (rf'{branch}\.{layer}\.', f'{our_branch}.{our_layer}.')
            for branch, our_branch in _CONV_BRANCHES
            for layer, our_layer in _CONV_LAYERS
        ),
        (r'stem\.conv1\.', 'patch_embed.proj.'),
        (r'stem\.down\.', 'patch_embed.conv_down.'),
        *((rf'stages\.{i + 1}\.downsample\.', f'levels.{i}.downsample.') for i in range(3)),
        (r'stages\.(\d)\.blocks\.(\d+)\.attn\.rel_pos\.', r'levels.\1.blocks.\2.attn.'),
        (r'stages\.(\d)\.blocks\.(\d+)\.ls([12])\.gamma', r'levels.\1.blocks.\2.gamma\3'),
        (r'stages\.(\d)\.blocks\.', r'levels.\1.blocks.'),
    ),
    absent_from_classifier=(r'norm\d\.',),
    classifier_options={'window_size': (7, 7, 14, 7)},
    stem=('patch_embed.proj.weight',),
    licence='CC BY-NC-SA 4.0, non-commercial',
)

# Residual convolutions of the query generator of each level.
QUERY_DEPTHS = (3, 2, 1, 1)


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole map holds (Hu et al. 2018): (B, C, H, W), same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden_dim = max(1, dim // 4)
        self.fc = nn.Sequential(
            nn.Linear(dim, hidden_dim, bias=False),
            nn.GELU(),
            nn.Linear(hidden_dim, dim, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.fc(x.mean((2, 3)))[:, :, None, None])


def conv_branch(dim: int) -> nn.Sequential:
    """The residual branch of the paper's modified Fused-MBConv: (B, C, H, W), same shape."""
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
        nn.GELU(),
        SqueezeExcitation(dim),
        nn.Conv2d(dim, dim, 1, bias=False),
    )


class Downsample(nn.Module):
    """Half the resolution: (B, C, H, W) -> (B, C', ceil(H / 2), ceil(W / 2))."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(dim)
        self.conv = conv_branch(dim)
        self.reduction = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, bias=False)
        self.norm2 = LayerNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = residual_sequence(self.norm1(x), self.conv)  # the shortcut is normed as well
        return self.norm2(conv(self.reduction, x))


class PatchEmbed(nn.Module):
    """Stem: (B, in_channels, H, W) -> (B, C, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, stride=2, padding=1)
        self.conv_down = Downsample(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_down(self.proj(channels_last(x)))


class QueryConv(nn.Module):
    """Residual convolution, then with ``pool`` half the resolution: (B, C, H, W) -> (B, C, ...)."""

    def __init__(self, dim: int, pool: bool) -> None:
        super().__init__()
        self.conv = conv_branch(dim)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(residual_sequence(x, self.conv))


class GlobalQuery(nn.Module):
    """The query that all windows of an image share in the global blocks of a level.

    ``forward``: the level's input (B, C, H, W) -> (B, heads, ws, ws, d), whatever H and W are.
    """

    def __init__(self, level: int, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        # In the classifier (224 x 224, windows 7, 7, 14, 7) pooling leaves a map of one window. The
        # published dense network derives the rule from its window, never from the input's size.
        pool = level < 2 or (level == 2 and window_size > 14)
        self.to_q_global = nn.Sequential(
            *(QueryConv(dim, pool) for _ in range(QUERY_DEPTHS[level]))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_q_global(x)  # (B, C, H', W')
        size = (self.window_size, self.window_size)
        x = F.interpolate(x, size, mode='bicubic', align_corners=False)  # (B, C, ws, ws)
        return x.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2)


class WindowAttention(nn.Module):
    """Multi-head attention in windows with a relative position bias.

    ``forward`` takes and returns the tokens of a map (B, H * W, C), with its windows. Global
    attention projects no queries: they are ``query`` (B, heads, ws, ws, d), the same for all
    windows of an image; local attention gets None.

    In the published network windows are padded with zeros. Here one key stands for all those that a
    window lacks, its position bias being the logarithm of their summed exponentials: the same sum
    of fewer terms. With ``mask_padding`` there is no such key.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, global_query: bool, mask_padding: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.window_size = window_size
        self.mask_padding = mask_padding
        side = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(side * side, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, (2 if global_query else 3) * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, query: Tensor | None, windows: Windows) -> Tensor:
        x, zeros = windows.split(x), None
        if windows.are_cut and not self.mask_padding:
            *parts, zeros = linear_with_zeros(self.qkv, x, windows.lengths)
        else:
            parts = linear(self.qkv, x).split(windows.lengths, 1)  # (B, N * T, 2 C or 3 C) each
        groups = zip(parts, windows.shapes, strict=True)
        outputs = [self.attend(part, zeros, query, *shape) for part, shape in groups]
        y = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return linear(self.proj, windows.merge(y))

    def attend(
        self, qkv: Tensor, zeros: Tensor | None, query: Tensor | None, n: int, wh: int, ww: int
    ) -> Tensor:
        """Windows of one size: (B, N * T, 2 C or 3 C) -> (B, N * T, C).

        ``zeros``, (B or 1, 1, 2 C or 3 C), is what the projection makes of padding, if it counts.
        """
        b, heads, d = qkv.shape[0], self.num_heads, self.head_dim
        qkv = qkv.reshape(b * n, wh * ww, -1, heads, d)
        *queries, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B * N, heads, T, d) each
        padded = zeros is not None and wh * ww < self.window_size**2
        if zeros is not None and padded:
            zeros = zeros.expand(b, n, -1).reshape(b * n, 1, -1, heads, d)
            key, value = zeros.permute(2, 0, 3, 1, 4)[-2:]
            k, v = torch.cat([k, key], 2), torch.cat([v, value], 2)  # (B * N, heads, T + 1, d)
        if query is None:
            (q,) = queries
        else:  # no copy for a single image
            q = query[:, None, :, :wh, :ww].flatten(3, 4).to(k.dtype)
            q = q.expand(-1, n, -1, -1, -1).flatten(0, 1)
        bias = PositionBias(self.window_size, wh, ww, padded)
        y = attention_with_bias(q, k, v, self.relative_position_bias_table, bias)
        return y.transpose(1, 2).reshape(b, n * wh * ww, heads * d)


class Block(nn.Module):
    """Attention and MLP, each with norm, residual and, in large variants, layer scale.

    ``forward`` takes and returns the tokens of a map (B, H * W, C); ``query`` is the level's global
    query, which local blocks ignore.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: int,
        layer_scale: float | None,
        drop_path: float,
        global_query: bool,
        mask_padding: bool,
    ) -> None:
        super().__init__()
        self.global_query = global_query
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, global_query, mask_padding)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor, query: Tensor | None, windows: Windows) -> Tensor:
        y = self.attn(self.norm1(x), query if self.global_query else None, windows)
        scales = [1.0 if gamma is None else gamma for gamma in (self.gamma1, self.gamma2)]
        x = residual_add(x, self.drop_path(y), scales[0])
        return add_mlp(x, self.norm2, self.mlp, self.drop_path, scales[1])


class Level(nn.Module):
    """The parts of a level, which the network's ``forward`` puts together."""

    def __init__(
        self,
        q_global_gen: GlobalQuery | None,
        blocks: Sequence[Block],
        downsample: Downsample | None,
    ) -> None:
        super().__init__()
        self.q_global_gen = q_global_gen
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


@register(MODELS)
class GCViT(Backbone):
    """GC ViT for dense prediction: four maps at strides 4, 8, 16, 32.

    Map i is (B, dim * 2**i, H', W') with ``H' = ceil(H / stride)``, after a LayerNorm of its own;
    the next level reads the map before that norm.

    The published weights are under CC BY-NC-SA 4.0 (non-commercial). A state dict may come from a
    network with other windows: its position bias tables are resized when it is loaded.

    Args:
        window_size: one per level. Published weights were trained with (7, 7, 14, 7).
        mask_padding: True hides the positions that a block itself pads up to a multiple of its
            window; in the published network they take part. What the batch canvas adds around an
            image cannot be told from the image here: a backbone gets only a tensor.

    The other arguments are those of :class:`~vitbackbones.backbones.options.Options`.

    Raises:
        ValueError: an option outside its choices, or an input that is not
            (B, in_channels, H, W) with both sides at least the largest output stride.
    """

    archs = ARCHS
    arch_type = GCViTArch
    family = 'GC ViT'
    checkpoint_names = CHECKPOINT_NAMES
    attends = r'levels\.\d+\.blocks\.\d+\.attn', 'biased_windows'
    arch: GCViTArch

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        window_size: Sequence[int] = (24, 24, 24, 24),
        mask_padding: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(arch, **options)
        sizes = int_tuple(window_size)
        if sizes is None or len(sizes) != len(self.strides) or min(sizes) < 1:
            raise ValueError(
                f'GCViT: window_size={window_size} must be {len(self.strides)} positive numbers, '
                'one per level'
            )
        self.window_size = sizes
        self.mask_padding = mask_padding
        a = self.arch
        rates = self.drop_path_rates(a.depths)
        dims = [a.dim << i for i in range(self.num_stages)]
        self.out_channels = tuple(dims[i] for i in self.out_indices)

        self.patch_embed = PatchEmbed(self.in_channels, a.dim)
        self.levels: Any = nn.ModuleList()  # of Level, which the annotation could not say
        for i, (dim, heads, ws) in enumerate(zip(dims, a.num_heads, sizes, strict=False)):
            blocks = [
                Block(
                    dim,
                    heads,
                    ws,
                    a.mlp_ratio,
                    a.layer_scale,
                    rate,
                    global_query=j % 2 == 1,
                    mask_padding=mask_padding,
                )
                for j, rate in enumerate(rates[i])
            ]
            query = GlobalQuery(i, dim, heads, ws) if len(blocks) > 1 else None
            last = i == self.num_stages - 1
            self.levels.append(Level(query, blocks, None if last else Downsample(dim, 2 * dim)))
            if i in self.out_indices:
                self.add_module(f'norm{i}', nn.LayerNorm(dim))
        self.apply(init_transformer)
        self.patch_embed.apply(init_stem_bias)
        # Whoever loads, a whole detector included, gets the tables in this network's size.
        # (torch has the public name of this method only since 2.5.)
        self._register_load_state_dict_pre_hook(_adapt_before_loading, with_module=True)
        self.finish()

    def layers(self) -> list[Layer]:
        """The stem, one layer per block, the output norms.

        A down-sampler and a query generator count to the first block that reads them.
        """
        layers = [in_stage(0, self.patch_embed)]
        for i, level in enumerate(self.levels):
            first, *others = level.blocks
            before = self.levels[i - 1].downsample if i else None
            layers.append(in_stage(i + 1, before, level.q_global_gen, first))
            layers += [in_stage(i + 1, block) for block in others]
        return [*layers, [(i + 1, getattr(self, f'norm{i}')) for i in self.out_indices]]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)  # (B, C, H', W')
        maps = []
        for i, level in enumerate(self.levels):
            query = level.q_global_gen(x) if level.q_global_gen else None  # (B, heads, ws, ws, d)
            height, width = x.shape[2:]
            windows = cut_windows(x, self.window_size[i], mask_padding=self.mask_padding)
            tokens = to_tokens(x)
            for block in level.blocks:
                tokens = self.run(block, tokens, query, windows)
            if i in self.out_indices:
                maps.append(to_map(getattr(self, f'norm{i}')(tokens), height, width))
            if level.downsample:
                x = level.downsample(to_map(tokens, height, width))  # (B, C', H', W')
        return maps

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under our names in our shapes; whatever else does not fit stays as it is.

        Position bias tables of another window are resized, and matrices that timm stores as 1 x 1
        convolutions (squeeze and excitation) lose their two axes.
        """
        own = self.state_dict()
        return {name: _fit(value, own.get(name), name) for name, value in state.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that decay would harm: position bias tables and layer scales."""
        endings = ('.relative_position_bias_table', '.gamma1', '.gamma2')
        return {name for name, _ in self.named_parameters() if name.endswith(endings)}


def _fit(value: Tensor, own: Tensor | None, name: str) -> Tensor:
    if own is None or value.shape == own.shape:
        return value
    if value.shape == (*own.shape, 1, 1):
        return value.flatten(1)
    if value.ndim == 2 and value.numel() and name.endswith('.relative_position_bias_table'):
        return resize_table(value, own)
    return value


def _adapt_before_loading(
    backbone: GCViT, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    ours = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    state_dict.update({prefix + k: v for k, v in backbone.adapt_state_dict(ours).items()})
