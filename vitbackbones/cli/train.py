"""Train a detector or segmentor from a config."""

from __future__ import annotations

import argparse

from vitbackbones.errors import UserError
from vitbackbones.launch.loading import load_config, work_dir
from vitbackbones.launch.training import train, use_amp

from .arguments import add_config_arguments, add_launcher_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go: work_dirs/<config>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from the newest checkpoint of the work directory, or from the given one',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision; bfloat16 without a GPU'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the rate to the batch, by the config's base",
    )
    add_launcher_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train as ``args`` say.

    Raises:
        UserError: the config, an option or the data are not right, or the model cannot be trained.
        CheckpointError: the file to resume from, or the pre-trained weights, cannot be used; or
            a checkpoint cannot be written.
        SystemExit: a signal ended the training.
    """
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir(cfg, args.config, args.work_dir, demo=args.demo)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(f'{args.config} names no auto_scale_lr.base_batch_size to scale from')
        cfg.auto_scale_lr.enable = True
    train(cfg, args.resume)
