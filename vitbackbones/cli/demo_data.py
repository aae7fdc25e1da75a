"""Generate the demo data: small images in COCO's and in ADE20K's format, without a download.

The same images are written twice, below OUT: as coco/ (boxes and instance masks under COCO's 80
categories) and as ade20k/ (label maps of ADE20K's 150 classes). Configs for the full datasets run
on them unchanged. Equal options give equal data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vitbackbones.data.demo import OUT, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--out', type=Path, default=OUT, help='folder to write (default: %(default)s)'
    )
    parser.add_argument('--train', type=int, default=480, help='training images (%(default)s)')
    parser.add_argument('--val', type=int, default=80, help='validation images (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the random generator (%(default)s)')
    parser.add_argument(
        '--sides',
        type=int,
        nargs=2,
        default=(128, 192),
        metavar=('MIN', 'MAX'),
        help='height and width of the images, in pixels (128 192)',
    )
    parser.add_argument(
        '--force', action='store_true', help='replace demo data generated with other options'
    )


def run(args: argparse.Namespace) -> None:
    generate(
        args.out,
        train=args.train,
        val=args.val,
        seed=args.seed,
        sides=tuple(args.sides),
        force=args.force,
    )
