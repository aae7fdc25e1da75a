"""Test a checkpoint on the config's test set and print its metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from torch import Tensor, nn

from vitbackbones.checkpoint import CheckpointError, find_weights, read_checkpoint

from .config import adapt_to_device, add_config_arguments, check_config, load_config, work_dir
from .pictures import DrawHook

HELP = 'measure a checkpoint on the test set'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint of `vitbackbones train`')
    parser.add_argument('--work-dir', help='where the log goes: work_dirs/<config>')
    parser.add_argument('--show-dir', help='draw ground truth and result of every picture there')
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='of processes',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Test as ``args`` say.

    Raises:
        UserError: the config, an option or the data are not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir(cfg, args.config, args.work_dir, demo=args.demo)
    cfg.load_from = args.checkpoint
    checkpoint = read_checkpoint(args.checkpoint)
    adapt_to_device(cfg)
    check_config(cfg, ('test',))
    # Only the test loop is built: the training data need not be there.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    runner = Runner.from_cfg(cfg)
    check_fits(runner.model, checkpoint, args.checkpoint)
    if args.show_dir:
        runner.register_hook(DrawHook(Path(args.show_dir)))
    runner.test()


def check_fits(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """mmengine loads what happens to match and goes on; here everything has to.

    Raises:
        CheckpointError: tensors of the model are missing in the checkpoint or differ in shape.
    """
    model = getattr(model, 'module', model)
    state, _ = find_weights(checkpoint)
    missing, differing = [], []
    for key, value in model.state_dict().items():
        if key not in state:
            missing.append(key)
        elif isinstance(value, Tensor) and value.shape != state[key].shape:
            differing.append(f'{key} {tuple(state[key].shape)} for {tuple(value.shape)}')
    if missing or differing:
        examples = ', '.join([*differing[:3], *missing[:3]])
        raise CheckpointError(
            f'{source} does not fit the model of the config: {len(missing)} tensors missing, '
            f'{len(differing)} of another shape ({examples}); test with the config it was '
            'trained with'
        )
