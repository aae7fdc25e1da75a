"""Layers that backbones share, and attention with the position biases that it learns."""

from .attention import biased_attention
from .drop import DropPath
from .inference import add_to, is_plain, lean
from .layout import channels_first, to_map, to_rows
from .linear import linear
from .mlp import PIECE, Mlp, add_mlp, is_gelu
from .norm import LayerNorm2d
from .position import position_bias, resize_table
from .window import invert, one_graph, rows_at, window_groups

__all__ = [
    'PIECE',
    'DropPath',
    'LayerNorm2d',
    'Mlp',
    'add_mlp',
    'add_to',
    'biased_attention',
    'channels_first',
    'invert',
    'is_gelu',
    'is_plain',
    'lean',
    'linear',
    'one_graph',
    'position_bias',
    'resize_table',
    'rows_at',
    'to_map',
    'to_rows',
    'window_groups',
]
