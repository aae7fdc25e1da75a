"""Write a whole model, its backbone, or backbone and neck, as ONNX, and check what was written.

The model is fused first. With --part model the file goes from the pixels of an image to boxes,
scores, labels and masks, or to label maps; its metadata say all that running it needs. Otherwise
its input `image` (B, C, H, W) is what the config's data_preprocessor makes of images, normalised,
and its outputs are map0, map1, ..., finest first. The file stays only if ONNX Runtime computes the
same from it as the model does, for other sizes too where any may come.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vitbackbones.benchmark.precisions import export_in_precision
from vitbackbones.deploy.exporting import WHOLE, check_place, export_whole, in_one_sentence
from vitbackbones.deploy.onnx import NEWEST_OPSET, OPSET, export_onnx
from vitbackbones.deploy.parts import PARTS, build_part, example_images
from vitbackbones.deploy.pixels import Input
from vitbackbones.deploy.whole import Wanted
from vitbackbones.errors import UserError
from vitbackbones.launch.loading import load_config

from .arguments import add_config_arguments, require_choice

#: Options that only whole models have.
OF_WHOLE: dict[str, dict[str, Any]] = {
    'static': {'action': 'store_true', 'help': 'take images of one --size alone'},
    'masks': {'choices': ('raw', 'pasted'), 'help': 'of the boxes (raw), or H x W'},
    'layout': {'choices': ('chw', 'hwc'), 'help': 'axes of the image (chw)'},
    'channels': {'choices': ('rgb', 'bgr'), 'help': 'its colours (rgb)'},
    'float': {'action': 'store_true', 'help': 'its values: float32, not uint8'},
    'probabilities': {'action': 'store_true', 'help': 'of classes, not labels'},
    'half': {'action': 'store_true', 'help': 'compute in half precision'},
    'int8': {'type': Path, 'metavar': 'IMAGES', 'help': 'in eight bits, by a folder of images'},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='weights of the whole model (random ones)')
    parts = f'{WHOLE}, {" or ".join(PARTS)} (%(default)s)'
    parser.add_argument('--part', default='backbone', help=parts)
    parser.add_argument(
        '--dynamic', action='store_true', help='let batch, height and width be anything'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=(512, 512),
        metavar=('H', 'W'),
        help='of the image in pixels (512 512); for any size, of one to check with',
    )
    whole = parser.add_argument_group(f'with --part {WHOLE}, which takes any size')
    for name, options in OF_WHOLE.items():
        whole.add_argument(f'--{name}', **options)
    last = f'{OPSET} to {NEWEST_OPSET} (%(default)s)'
    parser.add_argument('--opset', type=int, default=OPSET, help=f'of the operators, {last}')
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
    _check(args)
    check_place(out, force=args.force)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    is_whole = args.part == WHOLE
    is_free = not args.static if is_whole else args.dynamic
    option = 'for any size; with --static' if is_whole else 'with --dynamic; without it'
    hint = f' {option}, one --size may be' if is_free else ''
    with in_one_sentence(f'{args.part} of {args.config}', out, hint):
        said = _export_whole(args, cfg, out) if is_whole else _export_part(args, cfg, out)
    any_size = 'any size' if is_whole else 'any batch and size'
    sizes = any_size if is_free else f'1 image of {args.size[0]} x {args.size[1]}'
    print(f'{out}: {args.part} for {sizes}, {out.stat().st_size / 1e6:.1f} MB; {said}')


def _export_part(args: argparse.Namespace, cfg: Config, out: Path) -> str:
    part = build_part(cfg, args.part, args.checkpoint)
    images = example_images(part.backbone, *args.size, dynamic=args.dynamic)
    worst = export_onnx(part, images, out, dynamic=args.dynamic, opset=args.opset)
    return f'ONNX Runtime differs by {worst:.1e} of the largest value at most'


def _export_whole(args: argparse.Namespace, cfg: Config, out: Path) -> str:
    wanted = Wanted(
        given=Input.of_words(args.layout, args.channels, in_floats=args.float),
        masks=args.masks,
        probabilities=args.probabilities,
        size=tuple(args.size),
        dynamic=not args.static,
    )

    def export(path: Path) -> object:
        return export_whole(cfg, args.checkpoint, path, wanted, name=args.config, opset=args.opset)

    return export_in_precision(cfg, out, export, half=args.half, int8=args.int8)


def _check(args: argparse.Namespace) -> None:
    require_choice(args, 'part', (WHOLE, *PARTS))
    if args.part == WHOLE and args.dynamic:
        raise UserError(f'--part {WHOLE} takes any size without --dynamic; one alone by --static')
    for name in OF_WHOLE if args.part != WHOLE else ():
        if getattr(args, name):
            raise UserError(f'--{name} goes with --part {WHOLE} alone, not with {args.part}')
    if not OPSET <= args.opset <= NEWEST_OPSET:
        raise UserError(f'--opset {args.opset}: choose from {OPSET} to {NEWEST_OPSET}')
