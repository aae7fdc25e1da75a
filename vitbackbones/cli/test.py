"""Test a checkpoint on the config's test set and print its metrics."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from vitbackbones.checkpoint import load_whole, read_checkpoint
from vitbackbones.engine.ranks import together

from .config import (
    adapt_to_device,
    add_config_arguments,
    add_launcher_arguments,
    build_runner,
    check_config,
    load_config,
    require,
    work_dir,
)
from .pictures import SCORE, DrawHook


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='a checkpoint of `vitbackbones train`, or a published one'
    )
    parser.add_argument('--work-dir', help='where the log goes: work_dirs/<config>')
    parser.add_argument('--show-dir', help='draw ground truth and result of every picture there')
    parser.add_argument(
        '--show-score', type=float, default=SCORE, help='draw detections from it on (%(default)s)'
    )
    add_launcher_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Test as ``args`` say.

    Raises:
        UserError: the config, an option or the data are not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir(cfg, args.config, args.work_dir, demo=args.demo)
    adapt_to_test(cfg)
    with together():
        runner = build_tester(cfg, args.checkpoint)
        if args.show_dir:
            runner.register_hook(DrawHook(Path(args.show_dir), args.show_score))
        runner.test()


def adapt_to_test(cfg: Config) -> None:
    """Take training out of the config: its data need not be there; and what needs a missing GPU."""
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'load_from'):
        cfg.pop(key, None)
    adapt_to_device(cfg)


def build_tester(cfg: Config, source: str) -> Runner:
    """A Runner with nothing but a test loop, whose model has the weights of a checkpoint.

    Args:
        cfg: changed by :func:`adapt_to_test`.
        source: path or URL of the checkpoint.

    Raises:
        UserError: the config or the data are not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    checkpoint = read_checkpoint(source)
    require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_config(cfg, ('test',))
    runner = build_runner(cfg, training=False)
    load_whole(runner.model, checkpoint, source)
    return runner
