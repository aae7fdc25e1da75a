"""Write a config: a detector or segmentor that you know, with one of our backbones.

vitbackbones new --from mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py --backbone shvit_s4 -o my.py
vitbackbones train my.py
"""

from __future__ import annotations

import argparse

from vitbackbones.authoring.new import new_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--from',
        dest='start',
        required=True,
        metavar='CONFIG',
        help="a config of mmdet or mmseg, 'mmdet::...', or a file that inherits one",
    )
    parser.add_argument(
        '--backbone', required=True, metavar='NAME', help='such as sepvit_lite: see `info`'
    )
    parser.add_argument('-o', '--out', required=True, metavar='FILE', help='the config to write')
    parser.add_argument(
        '--weights',
        default='auto',
        metavar='auto|none|FILE|URL',
        help='what the backbone starts from (auto: published weights, if they can be fetched)',
    )
    parser.add_argument('--force', action='store_true', help='write over a file that is there')


def run(args: argparse.Namespace) -> None:
    """Write the file, and print what every rule did.

    Raises:
        UserError: an input is not right; nothing was written then.
        CheckpointError: weights were named that cannot be read, or are of another network.
    """
    written = new_config(
        args.start, args.backbone, args.out, weights=args.weights, force=args.force
    )
    for line in written.said:
        print(line)
    print(f'written: {written.path}; next: vitbackbones train {args.out}')
