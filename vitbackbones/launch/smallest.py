"""A config made to train from random weights, with the smallest variant of its backbone."""

from __future__ import annotations

import torch
from mmengine.config import Config, ConfigDict

from vitbackbones.backbones.base import Backbone
from vitbackbones.data.configs import as_list
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task, task_of

from .checks import build_backbone

#: The rate of AdamW at which a network learns from random weights and small batches.
RANDOM_RATE = 3e-4


def use_smallest_arch(cfg: Config) -> str:
    """Change the backbone to the variant with the fewest parameters, and what reads it to match.

    Returns:
        The backbone and variant in words.

    Raises:
        UserError: the backbone is not one of ours.
    """
    model = cfg.model
    backbone = build_backbone(cfg)
    if backbone is None:
        raise UserError(f'the demo needs one of our backbones, got {model.backbone.type}')

    def built(arch: str) -> Backbone:
        with torch.device('meta'):
            return type(backbone)(arch, out_indices=backbone.out_indices)

    def parameters(arch: str) -> int:
        return sum(p.numel() for p in built(arch).parameters())

    model.backbone.arch = min(backbone.archs, key=parameters)
    model.backbone.pop('drop_path_rate', None)  # the variant's own
    channels = built(model.backbone.arch).out_channels
    if task_of(model) is Task.CLASSIFICATION:
        if 'in_channels' in model.head:
            model.head.in_channels = channels[-1]
    elif model.get('neck'):
        model.neck.in_channels = list(channels)
    else:
        for head in as_list(model.get('decode_head')) + as_list(model.get('auxiliary_head')):
            index = head.get('in_index', -1)
            several = isinstance(index, (list, tuple))
            head.in_channels = [channels[i] for i in index] if several else channels[index]
    return f'{type(backbone).__name__} {model.backbone.arch}'


def use_rates_for_random_weights(cfg: Config) -> None:
    """Recipes spare pre-trained layers; from random weights all learn alike, and faster."""
    cfg.optim_wrapper.pop('constructor', None)
    cfg.optim_wrapper.pop('paramwise_cfg', None)
    cfg.optim_wrapper.optimizer.lr = RANDOM_RATE  # too much, were gradients not clipped
    cfg.optim_wrapper.clip_grad = ConfigDict(max_norm=1.0)
