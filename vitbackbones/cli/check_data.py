"""Find what is wrong with the data of a config, and count what there is to learn in them.

Annotations in COCO's format and folders of label maps are checked and counted, with the header of
every image; `--images` decodes images as training does. Errors are what training stops at; warnings
are what it copes with, and how. The exit status is 1 if there are errors.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from mmengine.registry import init_default_scope

from vitbackbones import files
from vitbackbones.data.report import as_json, whole_report
from vitbackbones.data.survey import survey
from vitbackbones.errors import UserError
from vitbackbones.inference.preview import check_sheet, preview
from vitbackbones.launch.classes import use_one_order
from vitbackbones.launch.loading import load_config

from .arguments import add_config_arguments

SPLITS = ('train', 'val', 'test')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--images', action='store_true', help='decode all images')
    parser.add_argument(
        '--split', choices=(*SPLITS, 'all'), default='all', help='which data (%(default)s)'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='processes that read images (%(default)s)',
    )
    parser.add_argument(
        '--show', type=int, default=5, help='examples of each kind to print (%(default)s)'
    )
    parser.add_argument(
        '--out', type=Path, metavar='FILE.json', help='write findings and counts there'
    )
    parser.add_argument(
        '--preview',
        type=Path,
        metavar='SHEET.png',
        help='draw some images there as annotated, next to what the pipeline makes of them; those '
        'of training unless --split says otherwise',
    )
    parser.add_argument('--force', action='store_true', help='write over a sheet that is there')


def run(args: argparse.Namespace) -> int:
    """Check as ``args`` say; 1 if there is something that training stops at, else 0.

    Raises:
        UserError: the config or an option is not right, or there is nothing that can be checked.
    """
    if args.jobs < 1 or args.show < 0:
        raise UserError(f'--jobs {args.jobs} must be at least 1, --show {args.show} at least 0')
    if args.out and not args.out.parent.is_dir():
        raise UserError(f'--out {args.out}: there is no folder {args.out.parent}')
    if args.preview:
        check_sheet(args.preview, force=args.force)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    init_default_scope(cfg.default_scope)
    use_one_order(cfg, SPLITS)
    splits = SPLITS if args.split == 'all' else (args.split,)
    found = survey(cfg, splits, jobs=args.jobs, decode=args.images)
    if not found:
        raise UserError(f'{args.config} has no {args.split} data that can be checked')
    for line in whole_report(found, args.show):
        print(line)
    if args.out:
        files.write(args.out, json.dumps(as_json(found), indent=1) + '\n')
    if args.preview:
        preview(cfg, args.preview, split='train' if args.split == 'all' else args.split)
        print(f'images as annotated and as the pipeline makes them: {args.preview}')
    return int(any(finding.error for source in found for finding in source.findings))
