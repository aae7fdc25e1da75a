"""Where vitbackbones' classes are found by name.

mmengine looks a name up in the current scope and then in the root registry, never in a sibling
scope. Every class of this package is therefore registered twice: in mmengine's root registry
under its plain name, visible from mmdet, mmseg and every other scope once ``vitbackbones`` has
been imported, and in a child registry of the scope ``vitbackbones``, so that
``type='vitbackbones.SepViT'`` makes mmengine import this package by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distributions
from typing import TypeVar

from mmengine.config import utils as config_utils
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

SCOPE = 'vitbackbones'

DATA_SAMPLERS = Registry(
    'data sampler',
    parent=ROOT_DATA_SAMPLERS,
    scope=SCOPE,
    locations=['vitbackbones.data.multi_scale'],
)
LOOPS = Registry('loop', parent=ROOT_LOOPS, scope=SCOPE, locations=['vitbackbones.engine.sandwich'])
MODELS = Registry('model', parent=ROOT_MODELS, scope=SCOPE, locations=['vitbackbones'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=ROOT_OPTIM_WRAPPERS, scope=SCOPE, locations=['vitbackbones']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=['vitbackbones'],
)
HOOKS = Registry(
    'hook',
    parent=ROOT_HOOKS,
    scope=SCOPE,
    locations=[
        f'vitbackbones.engine.{name}'
        for name in (
            *('preflight', 'durable', 'non_finite', 'zero_losses'),
            *('validation_loss', 'early_stopping', 'best_checkpoint', 'adaptive_clip'),
        )
    ],
)
TRANSFORMS = Registry(
    'transform',
    parent=ROOT_TRANSFORMS,
    scope=SCOPE,
    locations=['vitbackbones.data.loading', 'vitbackbones.data.multi_scale'],
)

# `_base_ = 'vitbackbones::...'` is refused unless the name is in mmengine's own table. It maps a
# scope to what mmengine then locates on disk; naming a module of ours rather than the distribution
# makes it work from a wheel, an editable install and PYTHONPATH alike.
config_utils.MODULE2PACKAGE[SCOPE] = 'vitbackbones.registry'
# The fork of mmsegmentation is a distribution of another name than the table has for `mmseg::`.
if any(distributions(name='onedl-mmsegmentation')):
    config_utils.MODULE2PACKAGE['mmseg'] = 'mmseg'

T = TypeVar('T', bound=type)


def register(registry: Registry) -> Callable[[T], T]:
    """Class decorator: register in a registry of this module and in its mmengine root."""

    def decorate(cls: T) -> T:
        registry.register_module(module=cls)
        registry.parent.register_module(module=cls)
        return cls

    return decorate
