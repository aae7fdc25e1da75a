"""Train a detector or segmentor from a config."""

from __future__ import annotations

import argparse

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner, find_latest_checkpoint

from vitbackbones.checkpoint import read_checkpoint

from .config import (
    adapt_to_device,
    add_config_arguments,
    check_config,
    load_config,
    say,
    work_dir,
)
from .errors import UserError

HELP = 'train a detector or segmentor'


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
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='of processes',
    )
    # torch.distributed.launch passes it; torchrun sets the environment instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Train as ``args`` say.

    Raises:
        UserError: the config, an option or the data are not right.
        CheckpointError: the file to resume from, or the pre-trained weights, cannot be used.
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
    resume(cfg, args.resume)
    adapt_to_device(cfg)
    check_config(cfg, ('train', 'val'))
    Runner.from_cfg(cfg).train()


def use_amp(cfg: Config) -> None:
    """Turn the config's optimizer wrapper into mmengine's mixed-precision one.

    Raises:
        UserError: the config has an optimizer wrapper of another kind.
    """
    wrapper = cfg.optim_wrapper
    if wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp replaces OptimWrapper, but the config has {wrapper.type}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def resume(cfg: ConfigDict, source: str | None) -> None:
    """Set what mmengine resumes from, after reading that file once."""
    if source is None:
        return
    cfg.resume = True
    cfg.load_from = source if source != 'auto' else find_latest_checkpoint(cfg.work_dir)
    if cfg.load_from is None:
        cfg.resume = False
        say(f'no checkpoint in {cfg.work_dir} to resume from: starting from the beginning')
        return
    checkpoint = read_checkpoint(cfg.load_from)
    missing = [key for key in ('state_dict', 'optimizer', 'meta') if key not in checkpoint]
    if missing:
        raise UserError(
            f'{cfg.load_from} holds no {" and no ".join(missing)}, which resuming needs; to start '
            f'from its weights use --cfg-options load_from={cfg.load_from}'
        )
