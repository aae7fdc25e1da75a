"""Draw what a trained model looks at in images.

--what features   each stage's map: its principal components as colours, and its energy
--what gradcam    for each detection, or each class of a segmentor or classifier, the places that
                  speak for it
--what attention  where the blocks of the backbone attend to
--what tokens     which tokens SuperViT keeps at its blocks 3, 6 and 9, for each operating point

Writes IMAGE_WHAT_STAGE[_N].png for every image, stage, and N of detections, classes, blocks or
operating points; those of an earlier run, of the same image and stage, go. An image that fails is
named, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vitbackbones.explaining.running import Request, explain
from vitbackbones.launch.loading import load_config

from .arguments import add_checkpoint, add_config_arguments, add_device, require_choice

WHAT = ('features', 'gradcam', 'attention', 'tokens')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_checkpoint(parser)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--what', required=True, help=', '.join(WHAT))
    parser.add_argument('--out-dir', required=True, help='where drawings are written')
    parser.add_argument(
        '--stage',
        nargs='+',
        type=int,
        metavar='N',
        help='only these: stages from 1 on, or blocks of --what tokens (all there are)',
    )
    parser.add_argument(
        '--box', action='store_true', help='--what gradcam: also what speaks for the boxes'
    )
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='SCORE',
        help='--what gradcam: the least score of a detection or class that is explained (0.3)',
    )
    parser.add_argument('--arrays', action='store_true', help='also write the maps as .npy')
    add_device(parser, 'cuda' if torch.cuda.is_available() else 'cpu')


def run(args: argparse.Namespace) -> int:
    """Explain as ``args`` say; 1 if an image failed, else 0.

    Raises:
        UserError: the config or an option is not right, and nothing was written; or a drawing
            cannot be.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    require_choice(args, 'what', WHAT)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    paths = [Path(name) for name in args.images]
    request = Request(args.what, args.stage, args.box, args.arrays, args.threshold)
    out = Path(args.out_dir)
    outcome = explain(cfg, args.checkpoint, paths, out, request, device=args.device, report=print)
    if outcome.written:
        print(f'drawings are in {args.out_dir}')
    for path, reason in outcome.failed.items():
        print(f'{path}: {reason}', file=sys.stderr)
    return 1 if outcome.failed else 0
