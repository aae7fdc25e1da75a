"""Write a config for data of your own, for a detector or segmentor that you know, or for both.

vitbackbones new --data DIR --backbone shvit_s4 -o my.py
vitbackbones new --from mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py --backbone shvit_s4 -o my.py
vitbackbones train my.py
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import get_args

from mmengine.registry import init_default_scope

from vitbackbones.authoring.from_data import Data
from vitbackbones.authoring.heads import HEADS
from vitbackbones.authoring.new import new_config
from vitbackbones.errors import UserError
from vitbackbones.formats.own_data import Form
from vitbackbones.inference.preview import check_sheet, preview
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.tryout import try_out

from .arguments import read_scale, require_positive

OF_DATA = tuple(field.name for field in fields(Data) if field.name != 'folder')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        '--from',
        dest='start',
        metavar='CONFIG',
        help="a config of mmdet or mmseg, 'mmdet::...', or a file that inherits one",
    )
    add('--data', type=Path, metavar='DIR', help='images and annotations of your own')
    add('--backbone', required=True, metavar='NAME', help='such as sepvit_lite: see `info`')
    add('-o', '--out', required=True, metavar='FILE', help='the config to write')
    add(
        '--weights',
        default='auto',
        metavar='auto|published|none|FILE|URL|hf://...',
        help='what the backbone starts from (auto: published weights, if they can be fetched)',
    )
    add('--force', action='store_true', help='write over a file that is there')
    add(
        '--check',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='try the config for a few steps (it is)',
    )
    own = parser.add_argument_group('with --data')
    add = own.add_argument
    add('--head', help=f'in the place of --from: {", ".join(HEADS)} (by the annotations)')
    add('--max-scale', metavar='WIDTHxHEIGHT', help='what images must not exceed')
    add('--batch-size', type=int, metavar='N', help='images in a batch (what fits)')
    add('--epochs', type=int, metavar='N', help='how often each image is seen (by their number)')
    add('--device', help='cpu or cuda (what is there)')
    add('--memory', type=float, metavar='GB', help='of the device (what it has)')
    add('--format', dest='form', choices=get_args(Form), help='of a folder that has several')
    add('--classes', type=Path, metavar='FILE', help='a list of the classes')
    add('--seed', type=int, metavar='N', help='of the choice of validation images (0)')
    add('--preview', type=Path, metavar='FILE.png', help='draw images as annotated and augmented')


def run(args: argparse.Namespace) -> None:
    """Write the file, print what every rule did, and try the config.

    Raises:
        UserError: an input is not right, and nothing was written then; or the config was written,
            but fails.
        CheckpointError: weights were named that cannot be read, or are of another network.
    """
    require_positive(args, 'epochs', 'batch_size')
    if args.preview:
        check_sheet(args.preview, force=args.force, data=args.data)
    written = new_config(
        args.start,
        args.backbone,
        args.out,
        data=_data(args),
        weights=args.weights,
        force=args.force,
    )
    for line in (*written.said, *written.table):
        print(line)
    print(f'written: {written.path}')
    if args.preview:
        cfg = load_config(str(written.path))
        init_default_scope(cfg.default_scope)
        preview(cfg, args.preview)
        print(f'images as annotated and as the pipeline makes them: {args.preview}')
    if args.check:
        try:
            tried = try_out(written.path)
        except UserError as error:
            raise UserError(f'{written.path} is written, but does not train: {error}') from error
        for line in tried.lines():
            print(line)
    print(f'next: vitbackbones train {args.out}')


def _data(args: argparse.Namespace) -> Data | None:
    args.max_scale = read_scale(args.max_scale)
    given = {name: getattr(args, name) for name in OF_DATA if getattr(args, name) is not None}
    if args.data is not None:
        return Data(folder=args.data, **given)
    if given or args.preview:
        name = next(iter(given), 'preview').replace('_', '-')
        raise UserError(f'--{name.replace("form", "format")} is of use with --data DIR alone')
    return None
