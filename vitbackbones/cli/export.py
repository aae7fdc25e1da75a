"""Write the backbone of a config, or backbone and neck, as ONNX, and check what was written.

The model is fused first. The file's input `image` (B, C, H, W) is what the config's
data_preprocessor makes of pictures: normalised. Its outputs are map0, map1, ..., finest first. It
stays only if ONNX Runtime computes the same from it as the model does; with --dynamic, for other
batches and sizes too.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import load_whole, read_checkpoint
from vitbackbones.deploy import fuse
from vitbackbones.deploy.onnx import ExportError, difference, write_onnx
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.loading import load_config

from .arguments import add_config_arguments

FORMATS = ('onnx',)
PARTS = ('backbone', 'backbone+neck')
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')

#: How far outputs may be from the model's, as a share of their largest value.
TOLERANCE = 1e-4

#: More tokens than any image has, 16 x 16 pixels each.
MANY_TOKENS = 1 << 17


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='weights of the whole model (random ones)')
    parser.add_argument('--format', default='onnx', help=f'{" or ".join(FORMATS)} (%(default)s)')
    parser.add_argument('--part', default='backbone', help=f'{" or ".join(PARTS)} (%(default)s)')
    parser.add_argument(
        '--dynamic', action='store_true', help='let batch, height and width be anything'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=('H', 'W'),
        help='of the image in pixels (512 512); with --dynamic, of the one to trace with',
    )
    parser.add_argument('--out', type=Path, help="file to write (the config's name with .onnx)")
    parser.add_argument('--force', action='store_true', help='overwrite it')


def run(args: argparse.Namespace) -> None:
    """Export as ``args`` say.

    Raises:
        UserError: a format, a part or a size that cannot be exported, or a file that computes
            something else; nothing is left behind then.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    if args.format not in FORMATS:
        raise UserError(
            f'--format {args.format!r} cannot be written, only {" or ".join(FORMATS)}, which '
            'OpenVINO, TensorRT and others read'
        )
    if args.part not in PARTS:
        raise UserError(
            f'--part {args.part!r} cannot be exported, only {" or ".join(PARTS)}: heads '
            'stay in PyTorch'
        )
    out: Path = args.out or Path(f'{Path(args.config.rpartition("::")[2]).stem}.onnx')
    if out.exists() and not args.force:
        raise UserError(f'{out} exists; overwrite it with --force')
    if not out.parent.is_dir():
        raise UserError(f'{out} cannot be written: there is no folder {out.parent}')
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            # Not the extra: over the forks of OpenMMLab's packages, pip would install mmengine too.
            raise UserError(f'{name} is missing: pip install {" ".join(PACKAGES)}') from None

    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    init_default_scope(cfg.default_scope)
    part = _part(cfg, args.part, args.checkpoint).eval()
    images = _images(part.backbone, *args.size, dynamic=args.dynamic)
    partial = out.with_name(f'{out.name}.{os.getpid()}.partial')
    try:
        write_onnx(fuse(part), images[0], partial, dynamic=args.dynamic)
        worst = difference(part, partial, *images)
        if not worst <= TOLERANCE:  # nor is nan
            raise ExportError(
                f'ONNX Runtime computes something else: outputs differ by {worst:.1e} of their '
                f'largest value, more than {TOLERANCE}'
            )
        partial.replace(out)
    except ExportError as error:
        hint = ' with --dynamic; without it, one --size may be' if args.dynamic else ''
        raise UserError(
            f'{args.part} of {args.config} cannot be exported{hint} ({error})'
        ) from error
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error})') from error
    except ValueError as error:  # a backbone's, about its input
        raise UserError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    sizes = 'any batch and size' if args.dynamic else f'1 image of {args.size[0]} x {args.size[1]}'
    print(
        f'{out}: {args.part} for {sizes}, {out.stat().st_size / 1e6:.1f} MB; '
        f'ONNX Runtime differs by {worst:.1e} of the largest value at most'
    )


class Part(nn.Module):
    """Backbone and, where there is one, neck: (B, C, H, W) -> maps."""

    def __init__(self, backbone: Backbone, neck: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))


def _part(cfg: Config, name: str, checkpoint: str | None) -> Part:
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
        load_whole(model, content, checkpoint)
    return Part(model.backbone, model.neck if name == 'backbone+neck' else None)


def _images(backbone: Backbone, height: int, width: int, *, dynamic: bool) -> list[Tensor]:
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
