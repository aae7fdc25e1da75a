"""Write the backbone of a config, or backbone and neck, as ONNX, and check what was written.

The model is fused first. The file's input `image` (B, C, H, W) is what the config's
data_preprocessor makes of images: normalised. Its outputs are map0, map1, ..., finest first. It
stays only if ONNX Runtime computes the same from it as the model does; with --dynamic, for other
batches and sizes too.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from vitbackbones.deploy.onnx import PACKAGES, ExportError, export_onnx
from vitbackbones.deploy.parts import PARTS, build_part, example_images
from vitbackbones.errors import UserError
from vitbackbones.launch.loading import load_config

from .arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='weights of the whole model (random ones)')
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
        UserError: a part or a size that cannot be exported, or a file that computes something else;
            nothing is left behind then.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    out: Path = args.out or Path(f'{Path(args.config.rpartition("::")[2]).stem}.onnx')
    _check(args, out)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    part = build_part(cfg, args.part, args.checkpoint)
    images = example_images(part.backbone, *args.size, dynamic=args.dynamic)
    try:
        worst = export_onnx(part, images, out, dynamic=args.dynamic)
    except ExportError as error:
        hint = ' with --dynamic; without it, one --size may be' if args.dynamic else ''
        raise UserError(
            f'{args.part} of {args.config} cannot be exported{hint} ({error})'
        ) from error
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error})') from error
    except ValueError as error:  # a backbone's, about its input
        raise UserError(str(error)) from error
    sizes = 'any batch and size' if args.dynamic else f'1 image of {args.size[0]} x {args.size[1]}'
    print(
        f'{out}: {args.part} for {sizes}, {out.stat().st_size / 1e6:.1f} MB; '
        f'ONNX Runtime differs by {worst:.1e} of the largest value at most'
    )


def _check(args: argparse.Namespace, out: Path) -> None:
    if args.part not in PARTS:
        raise UserError(
            f'--part {args.part!r} cannot be exported, only {" or ".join(PARTS)}: heads '
            'stay in PyTorch'
        )
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
