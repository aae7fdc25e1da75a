"""Dense-prediction backbones for OpenMMLab: SepViT, CAS-ViT, SuperViT, GC ViT and SHViT.

Importing the package registers everything it offers in mmengine's registries.
"""

from . import backbones, checkpoint, registry

__version__ = '0.1.0'

__all__ = ['__version__', 'backbones', 'checkpoint', 'registry']
