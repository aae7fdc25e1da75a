"""What our own configs say of a backbone: its published options, rates and weights."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError
from vitbackbones.metafiles import INDEX
from vitbackbones.pretrained import create
from vitbackbones.tasks import Task

from .draft import inherited
from .measuring import Map

CONFIGS = INDEX.parent / 'configs'


class Network(NamedTuple):
    """A variant of one of our backbones.

    Attributes:
        name: as :func:`~vitbackbones.create` takes it.
        cls: its class.
        arch: its variant.
        stages: all maps that it can output, without memory having been taken for its weights.
    """

    name: str
    cls: type[Backbone]
    arch: str
    stages: tuple[Map, ...]

    @property
    def words(self) -> str:
        """Its name for messages."""
        return f'{self.cls.family} {self.arch}'


class Recipe(NamedTuple):
    """How a network was published to be trained, or what is nearest to that."""

    source: str  # the config of ours that says so
    backbone: ConfigDict
    optim_wrapper: ConfigDict
    batch_size: int  # that the rate is for, over all processes


@functools.cache
def network(name: str) -> Network:
    """The variant of that name.

    Raises:
        UserError: there is none; the message names those that are near.
    """
    try:
        with torch.device('meta'):
            built = create(name)
    except ValueError as error:
        raise UserError(f'--backbone: {error}') from error
    arch = name.partition('_')[2]
    maps = zip(built.out_channels, built.out_strides, strict=True)
    return Network(name, type(built), arch, tuple(Map(c, float(s)) for c, s in maps))


def published_options(network: Network) -> dict[str, Any]:
    """The backbone's config with the options and weights that it was published with."""
    fragment = CONFIGS / '_base_' / 'backbones' / f'{network.name.replace("_", "-", 1)}.py'
    options = dict(inherited([str(fragment)]).backbone)
    if options.get('drop_path_rate') == network.cls.archs[network.arch].drop_path_rate:
        del options['drop_path_rate']  # the same without a word
    return options


@functools.cache
def recipe(network: Network, task: Task, *, in_two_stages: bool = False) -> Recipe:
    """The recipe of our default config for this network's family.

    Args:
        task: detection or segmentation.
        in_two_stages: of a detector, whether it cuts out regions, as Mask R-CNN does.
    """
    head = 'upernet' if task is Task.SEGMENTATION else 'mask_rcnn' if in_two_stages else 'retinanet'
    source = f'{task.value}/{network.cls.__name__.lower()}_{head}.py'
    cfg = inherited([str(CONFIGS / source)])
    batch_size = cfg.auto_scale_lr.base_batch_size
    return Recipe(f'vitbackbones::{source}', cfg.model.backbone, cfg.optim_wrapper, batch_size)
