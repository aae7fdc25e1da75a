"""Test a checkpoint on the config's test set and print its metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitbackbones.checkpoint import CheckpointError, find_weights, read_checkpoint

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
from .pictures import DrawHook


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint of `vitbackbones train`')
    parser.add_argument('--work-dir', help='where the log goes: work_dirs/<config>')
    parser.add_argument('--show-dir', help='draw ground truth and result of every picture there')
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
    checkpoint = read_checkpoint(args.checkpoint)
    require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    # Only the test loop is built: the training data need not be there.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'load_from'):
        cfg.pop(key, None)
    adapt_to_device(cfg)
    check_config(cfg, ('test',))
    runner = build_runner(cfg, training=False)
    load_whole(runner.model, checkpoint, args.checkpoint)
    if args.show_dir:
        runner.register_hook(DrawHook(Path(args.show_dir)))
    runner.test()


def load_whole(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load the weights of a detector or segmentor, all of them.

    Raises:
        CheckpointError: they are not those of the model; none was changed.
    """
    check_fits(model, checkpoint, source)
    getattr(model, 'module', model).load_state_dict(find_weights(checkpoint)[0])


def check_fits(model: nn.Module, checkpoint: Mapping[str, Any], source: str) -> None:
    """mmengine loads what happens to match and goes on; here everything has to.

    Raises:
        CheckpointError: tensors are missing in the checkpoint, differ in shape or are too many.
    """
    model = getattr(model, 'module', model)
    state, _ = find_weights(checkpoint)
    missing, differing = [], []
    for key, value in model.state_dict().items():
        if key not in state:
            missing.append(key)
        elif isinstance(value, Tensor) and value.shape != state[key].shape:
            differing.append(f'{key} {tuple(state[key].shape)} for {tuple(value.shape)}')
    unexpected = [key for key in state if key not in model.state_dict()]
    if missing or differing or unexpected:
        examples = ', '.join([*differing[:3], *missing[:3], *unexpected[:3]])
        raise CheckpointError(
            f'{source} does not fit the model of the config: {len(missing)} tensors missing, '
            f'{len(differing)} of another shape, {len(unexpected)} too many ({examples}); use the '
            'config it was trained with'
        )
