"""Dense-prediction backbones for OpenMMLab: SepViT, CAS-ViT, SuperViT, GC ViT and SHViT.

Importing the package registers everything it offers in mmengine's registries.
"""

from . import backbones, checkpoint, engine, necks, registry
from .checkpoint import CheckpointError, load_pretrained
from .factory import create, list_backbones

__version__ = '0.1.0'

__all__ = [
    'CheckpointError',
    '__version__',
    'backbones',
    'checkpoint',
    'create',
    'engine',
    'list_backbones',
    'load_pretrained',
    'necks',
    'registry',
]

# mmengine's Runner must be able to read its own checkpoints, whoever starts it.
checkpoint.register_safe_globals()
