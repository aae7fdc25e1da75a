"""What of a detector or segmentor is exported, and the images to trace and to check it with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.trained import read_whole
from vitbackbones.pretrained import load_model

PARTS = ('backbone', 'backbone+neck')

#: More tokens than any image has, 16 x 16 pixels each.
MANY_TOKENS = 1 << 17


class Part(nn.Module):
    """Backbone and, where there is one, neck: (B, C, H, W) -> maps."""

    def __init__(self, backbone: Backbone, neck: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))


def build_part(cfg: Config, name: str, checkpoint: str | None = None) -> Part:
    """The part of that name of a config's model, in evaluation.

    Args:
        name: one of :data:`PARTS`.
        checkpoint: weights of the whole model; without, they are random.

    Raises:
        UserError: the backbone is not one of ours, or there is no neck.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    init_default_scope(cfg.default_scope)
    require_ours(cfg)
    if name == 'backbone+neck' and not cfg.model.get('neck'):
        raise UserError('--part backbone+neck: this model has no neck, take --part backbone')
    read = None if checkpoint is None else read_whole(cfg, checkpoint)
    model: Any = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    if read is None:
        notice('no checkpoint: the weights are random')
    else:
        load_model(model, *read)
    return Part(model.backbone, model.neck if name == 'backbone+neck' else None).eval()


def require_ours(cfg: Config) -> Backbone:
    """The config's backbone, without memory for its weights.

    Raises:
        UserError: it is not one of ours.
    """
    backbone = build_backbone(cfg)
    if backbone is None:
        kind = dict(cfg.model.get('backbone') or {}).get('type')
        raise UserError(
            f'model.backbone is {kind}, not one of ours: {", ".join(Backbone.registered())}'
        )
    return backbone


def example_images(
    backbone: Backbone, height: int, width: int, *, dynamic: bool = False
) -> list[Tensor]:
    """What a program is traced with, and then what else it is checked with.

    Raises:
        UserError: as :func:`example_shapes`.
    """
    least = max(backbone.out_strides)
    shapes = example_shapes(backbone, height, width, dynamic=dynamic, stride=least)
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, backbone.in_channels, h, w, generator=generator)
        for batch, h, w in shapes
    ]


def example_shapes(
    backbone: Backbone,
    height: int,
    width: int,
    *,
    dynamic: bool,
    stride: int,
    options: tuple[str, str] = ('with --dynamic', 'without it'),
) -> list[tuple[int, int, int]]:
    """(B, H, W) of what a program is traced with, and then of what else it is checked with.

    Args:
        stride: the largest of all maps, those of a neck too.
        options: in words, how files for any size are asked for, and how others.

    Raises:
        UserError: the backbone does not take an image of this size, cannot be exported for any, or
            the image is too small to trace with: torch takes lengths of 1, as of a map of one row,
            for fixed.
    """
    name, least = type(backbone).__name__, max(backbone.out_strides)
    bound = max(least, stride) if dynamic else least
    if min(height, width) < bound + dynamic:
        kind = 'more than' if dynamic else 'at least'
        also = f' {options[0]}' if dynamic else ''
        whose = f'of {name}' if bound == least else 'of the maps that its heads read'
        raise UserError(
            f'--size {height} {width}: both sides must be {kind} {bound}{also}, the largest '
            f'stride {whose}'
        )
    if not dynamic:
        return [(1, height, width)]
    if (obstacle := _obstacle(backbone)) is not None:
        raise UserError(
            f'{name} with {obstacle} cannot be exported {options[0]}; {options[1]}, one --size '
            'can be'
        )
    return [
        (2, height, width),
        (1, 2 * height + 41, max(width // 2 + 9, least)),
        (3, max(height // 2 + 23, least), 2 * width + 118),
        (1, least, least),
    ]


def _obstacle(backbone: Any) -> str | None:
    """The option of a backbone that keeps it from being exported for any size, if there is one."""
    if getattr(backbone, 'mask_padding', False):
        return 'mask_padding=True, which cuts windows another way at every size,'
    point = getattr(backbone, 'operating_point', None)
    if point is not None:
        if point.scale < 1:
            return f'operating_point.scale={point.scale:g}, which rounds every size,'
        # ONNX counts in single precision; the model in Python's.
        tokens = np.arange(MANY_TOKENS)
        counts = [
            np.ceil(tokens.astype(kind) * kind(point.keep_rate))
            for kind in (np.float32, np.float64)
        ]
        wrong = np.flatnonzero(counts[0] != counts[1])
        if len(wrong):
            return (
                f'operating_point.keep_rate={point.keep_rate:g}, of which single precision keeps '
                f'another number out of {wrong[0]} tokens,'
            )
    return None
