"""Dense-prediction backbones for OpenMMLab: SepViT, CAS-ViT, SuperViT, GC ViT and SHViT.

Importing the package registers everything it offers in mmengine's registries.
"""

from .installation.command import is_our_command, needs_no_networks

__version__ = '0.2.0.dev0'

#: Why the rest could not be imported; only our command goes on then, to say so.
import_error: Exception | None = None

if not needs_no_networks():
    try:
        from . import backbones, checkpoint, engine, necks, registry
        from .checkpoint import CheckpointError
        from .pretrained import create, list_backbones, load_pretrained
    except Exception as error:  # whatever a broken torch or mmengine raises
        if not is_our_command():
            raise
        import_error = error
    else:
        # mmengine's Runner must be able to read its own checkpoints, whoever starts it.
        checkpoint.register_safe_globals()

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
