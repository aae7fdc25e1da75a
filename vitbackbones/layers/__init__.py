"""Layers that two or more backbones use identically."""

from .drop import DropPath
from .mlp import Mlp
from .window import pad_to_multiple, window_merge, window_split, window_valid

__all__ = ['DropPath', 'Mlp', 'pad_to_multiple', 'window_merge', 'window_split', 'window_valid']
