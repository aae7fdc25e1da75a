"""Run a trained model on images and videos: drawings, and what was found in several formats.

IMAGE is an image, a video, a folder, whose folders are looked into, or a pattern in quotes
('photos/**/*.jpg'). Writes NAME_prediction.jpg for every image, NAME being its path below the
folder. Detectors also write predictions.json (as COCO's annotation files, with a score at each
annotation; masks as RLE), with the ids of the config's test annotations for images that are in
them, segmentors NAME_labels.png, whose pixels are class indices in the order of the dataset,
classifiers predictions.json with the five best classes of each image and their scores. Frames of a
video are images VIDEO_000000 and so on. An image that fails is named, the others go on, and the
exit status is 1.

`vitbackbones infer MODEL.onnx IMAGE ...` does the same with a file of `vitbackbones export --part
model`, on the CPU, and needs neither config nor checkpoint.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.errors import UserError
from vitbackbones.inference.images import infer
from vitbackbones.inference.request import Request
from vitbackbones.inference.running import Outcome, Stopped
from vitbackbones.launch.loading import load_config

from .arguments import add_checkpoint, add_config_arguments, add_device, add_dtype


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_checkpoint(parser)
    parser.add_argument(
        'images', nargs='*', metavar='IMAGE', help='images, videos, folders, quoted patterns'
    )
    parser.add_argument('--out-dir', required=True, help='where results are written')
    parser.add_argument(
        '--format',
        nargs='+',
        default=[],
        metavar='coco|yolo|csv',
        help='of detectors: predictions.json (the default), a folder in the format of YOLO, '
        'predictions.csv, or several of them; of others csv in addition to what they write',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='SCORE',
        help='leave out what has a lower score (drawings, YOLO and CSV: 0.3; predictions.json: '
        'nothing is left out)',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='leave out all other classes')
    parser.add_argument(
        '--tile',
        type=int,
        metavar='SIZE',
        help='of detectors: look at tiles of SIZE x SIZE pixels, too, for small objects',
    )
    add_device(parser, 'cuda' if torch.cuda.is_available() else 'cpu')
    add_dtype(parser)


def run(args: argparse.Namespace) -> int:
    """Infer as ``args`` say; 1 if an image failed, 130 if it was stopped, else 0.

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
    request = Request(args.format, args.threshold, args.classes, args.tile)
    out, bar = Path(args.out_dir), sys.stdout.isatty() and sys.stderr.isatty()
    options: Any = dict(device=args.device, dtype=args.dtype, bar=bar)
    options |= {} if bar else {'report': print}
    try:
        with _ended_like_by_hand():
            outcome = infer(cfg, checkpoint, names, out, request, **options)
    except KeyboardInterrupt as stop:
        outcome = stop.outcome if isinstance(stop, Stopped) else Outcome()
        _tell_failures(outcome)
        done = f'what was done is in {out}' if outcome.written else 'nothing was done yet'
        print(f'vitbackbones infer: stopped, {done}', file=sys.stderr)
        return 128 + signal.SIGINT
    print(f'results are in {args.out_dir}')
    _tell_failures(outcome)
    return 1 if outcome.failed else 0


def _tell_failures(outcome: Outcome) -> None:
    for path, reason in outcome.failed.items():
        print(f'{path}: {reason}', file=sys.stderr)
    if outcome.failed:
        failed, number = len(outcome.failed), len(outcome.failed) + len(outcome.written)
        print(f'vitbackbones infer: {failed} of {number} images failed', file=sys.stderr)


@contextmanager
def _ended_like_by_hand() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that what was done is written."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
