"""A small variant of every backbone, for tests of behaviour rather than of published numbers."""

from __future__ import annotations

import itertools

from torch import nn

from vitbackbones.backbones.base import Backbone

SMALL = {
    'CASViT': {
        'dims': (8, 12, 16, 24),
        'depths': (1, 2, 2, 1),
    },
    'GCViT': {
        'dim': 8,
        'depths': (2, 3, 2, 2),
        'num_heads': (1, 2, 4, 8),
        'layer_scale': 1.0,
    },
    'SHViT': {
        'dims': (16, 24, 32),
        'partial_dims': (4, 6, 8),
        'depths': (1, 2, 1),
    },
    'SepViT': {
        'dims': (8, 16, 24, 32),
        'depths': (1, 2, 2, 1),
        'num_heads': (1, 2, 3, 4),
        'window_sizes': ((3,), (3, 4), (3, 4), (3,)),
    },
    'SuperViT': {
        'dim': 16,
        'depth': 5,
        'num_heads': 2,
        'mlp_ratio': 2,
        'qkv_bias': False,
        'norm_eps': 1e-5,
        'stem_dim': 32,  # narrower 8x8 convolutions in bfloat16 are wrong on some CPUs (oneDNN)
        'residual_scale': 0.5,
    },
}


def stem_weight(net: Backbone) -> str:
    """The name of the first convolution's weight."""
    return net.checkpoint_names.stem_weight(dict(net.named_parameters()))


def stage_modules(net: Backbone) -> list[list[nn.Module]]:
    """The modules of the stem, then of each stage, as ``frozen_stages`` counts them."""
    parts = [*itertools.chain(*net.layers())]
    return [
        [part for of, part in parts if of == stage and isinstance(part, nn.Module)]
        for stage in range(len(net.strides) + 1)
    ]
