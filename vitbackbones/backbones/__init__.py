"""The networks, one self-contained file each."""

from .sepvit import SepViT

__all__ = ['SepViT']
