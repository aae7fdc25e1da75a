"""The networks, one self-contained file each."""

from .casvit import CASViT
from .gcvit import GCViT
from .sepvit import SepViT
from .shvit import SHViT
from .supervit import SuperViT

__all__ = ['CASViT', 'GCViT', 'SHViT', 'SepViT', 'SuperViT']
