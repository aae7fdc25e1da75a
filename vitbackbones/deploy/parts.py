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
from vitbackbones.checkpoint import read_checkpoint
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.checks import build_backbone
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
    if build_backbone(cfg) is None:
        kind = dict(cfg.model.get('backbone') or {}).get('type')
        raise UserError(
            f'model.backbone is {kind}, not one of ours: {", ".join(Backbone.registered())}'
        )
    if name == 'backbone+neck' and not cfg.model.get('neck'):
        raise UserError('--part backbone+neck: this model has no neck, take --part backbone')
    content = None if checkpoint is None else read_checkpoint(checkpoint)
    model: Any = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    if content is None:
        notice('no checkpoint: the weights are random')
    else:
        assert checkpoint is not None
        load_model(model, content, checkpoint)
    return Part(model.backbone, model.neck if name == 'backbone+neck' else None).eval()


def example_images(
    backbone: Backbone, height: int, width: int, *, dynamic: bool = False
) -> list[Tensor]:
    """What a program is traced with, and then what else it is checked with.

    Raises:
        UserError: the backbone does not take an image of this size, cannot be exported for any, or
            the image is too small to trace with: torch takes lengths of 1, as of a map of one row,
            for fixed.
    """
    name, least = type(backbone).__name__, max(backbone.out_strides)
    if min(height, width) < least + dynamic:
        kind = 'more than' if dynamic else 'at least'
        also = ' with --dynamic' if dynamic else ''
        raise UserError(
            f'--size {height} {width}: both sides must be {kind} {least}{also}, the largest '
            f'stride of {name}'
        )
    shapes = [(1, height, width)]
    if dynamic:
        if (obstacle := _obstacle(backbone)) is not None:
            raise UserError(
                f'{name} with {obstacle} cannot be exported with --dynamic; '
                'without it, one --size can be'
            )
        shapes = [
            (2, height, width),
            (1, 2 * height + 41, max(width // 2 + 9, least)),
            (3, max(height // 2 + 23, least), 2 * width + 118),
            (1, least, least),
        ]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, backbone.in_channels, h, w, generator=generator)
        for batch, h, w in shapes
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
