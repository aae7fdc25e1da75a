"""Run a trained model on images: drawings, and COCO-style JSON, label maps or classes.

Writes NAME_prediction.jpg for every image NAME; detectors also write predictions.json (images,
categories and annotations as in COCO, each annotation with a score; masks as RLE), with the ids of
the config's test annotations for images that are in them, segmentors NAME_labels.png, whose pixels
are class indices in the order of the dataset, classifiers predictions.json with the five best
classes of each image and their scores. An image that fails is named, the others go on, and
the exit status is 1.

`vitbackbones infer MODEL.onnx IMAGE ...` does the same with a file of `vitbackbones export --part
model`, on the CPU, and needs neither config nor checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.errors import UserError
from vitbackbones.inference.images import infer
from vitbackbones.launch.loading import load_config

from .arguments import add_checkpoint, add_config_arguments, add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_checkpoint(parser)
    parser.add_argument('images', nargs='*', metavar='IMAGE', help='image files')
    parser.add_argument('--out-dir', required=True, help='where results are written')
    add_device(parser, 'cuda' if torch.cuda.is_available() else 'cpu')


def run(args: argparse.Namespace) -> int:
    """Infer as ``args`` say; 1 if an image failed, else 0.

    Raises:
        UserError: the config, an option or an image is not right, and nothing was written; or
            predictions.json cannot be.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    config, checkpoint, names = args.config, args.checkpoint, args.images
    if is_onnx(config):
        config, checkpoint, names = None, args.config, [args.checkpoint, *args.images]
        if args.demo or args.cfg_options:
            raise UserError(f'{checkpoint} has come without a config that options could change')
    if not names:
        raise UserError(f'no image is named to be predicted by {checkpoint}')
    cfg = load_config(config, args.cfg_options, demo=args.demo) if config else None
    paths = [Path(name) for name in names]
    outcome = infer(cfg, checkpoint, paths, Path(args.out_dir), device=args.device, report=print)
    print(f'results are in {args.out_dir}')
    for path, reason in outcome.failed.items():
        print(f'{path}: {reason}', file=sys.stderr)
    if outcome.failed:
        count = f'{len(outcome.failed)} of {len(paths)} images failed'
        print(f'vitbackbones infer: {count}', file=sys.stderr)
    return 1 if outcome.failed else 0
