"""Accuracy and cost of one checkpoint at many operating points: a table and a plot.

For backbones with operating points, which SuperViT is. At every point the checkpoint is tested on
the config's test set; GFLOPs, peak memory and latency are of predicting single test images with
the whole model. Latencies are taken in turn, so that they compare with each other, but not with
those of another run. The results are tradeoff.csv, .md, .png and .json in the output folder. What
is finished stays there if the command is interrupted, and is not measured again by the same command
as long as checkpoint, config and data are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vitbackbones.benchmark.points import read_points
from vitbackbones.benchmark.tradeoff import NAME, Tradeoff
from vitbackbones.errors import notice
from vitbackbones.launch.loading import load_config, work_dir

from . import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_config_arguments(parser)
    arguments.add_checkpoint(parser)
    parser.add_argument(
        '--points',
        nargs='+',
        metavar='SCALE,KEEP_RATE',
        help='1,1 8/14,0.5 ...; all pairs of the scales and rates that a sandwich trains',
    )
    parser.add_argument('--out-dir', help='where the results go: work_dirs/<config>/tradeoff')
    arguments.add_rounds(parser, 'of taking all latencies in turn')
    parser.add_argument(
        '--images', type=int, default=5, help='test images to measure costs on (%(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Measure as ``args`` say; 130 if that was interrupted, else 0.

    Raises:
        UserError: the config, an option or the data are not right, or the backbone has no
            operating points.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    points = read_points(args.points)
    arguments.require_positive(args, 'rounds', 'images')
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    folder = Path(args.out_dir or Path(work_dir(cfg, args.config, None, demo=args.demo), NAME))
    study = Tradeoff(cfg, args.checkpoint, points, folder)
    try:
        study.measure(args.images, args.rounds)
    except KeyboardInterrupt:
        _report(study, args.config)
        notice('interrupted; the same command goes on from here')
        return 130
    _report(study, args.config)
    return 0


def _report(study: Tradeoff, config: str) -> None:
    if text := study.report(config):
        print(text, end='')
        print(f'results are in {study.folder}')
