"""Test a checkpoint on the config's test set and print its metrics.

In place of a checkpoint there may be a file of `vitbackbones export --part model`: the same data
and metrics then measure what ONNX Runtime computes from it, on the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.engine.ranks import linked_ranks
from vitbackbones.errors import UserError
from vitbackbones.inference.drawing import SCORE, DrawHook
from vitbackbones.inference.dump import dump_hook
from vitbackbones.inference.predict import build_tester
from vitbackbones.launch.device import let_processes_meet
from vitbackbones.launch.loading import load_config, work_dir

from .arguments import (
    add_checkpoint,
    add_config_arguments,
    add_dtype,
    add_launcher_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_checkpoint(parser)
    parser.add_argument('--work-dir', help='where the log goes: work_dirs/<config>')
    parser.add_argument('--show-dir', help='draw ground truth and result of every image there')
    parser.add_argument(
        '--show-score', type=float, default=SCORE, help='draw detections from it on (%(default)s)'
    )
    parser.add_argument(
        '--dump',
        metavar='PATH',
        help="write what was predicted: detectors a JSON file, COCO's list of results, classifiers "
        'one with the five best classes of each image; segmentors a folder of label maps, '
        'NAME.png, with the index of the class in each pixel',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test time augmentation: each image also mirrored, and both at 0.75 and 1.25 of the '
        'test scale (of classifiers mirrored alone), merged by mmdet, mmseg or mmpretrain; '
        'tta_pipeline and tta_model of the config go before; not for masks',
    )
    add_dtype(parser)
    add_launcher_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Test as ``args`` say.

    Raises:
        UserError: the config, an option or the data are not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    if is_onnx(args.checkpoint) and args.launcher != 'none':
        raise UserError(f'--launcher {args.launcher}: one process tests {args.checkpoint}')
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    cfg.launcher = args.launcher
    cfg.work_dir = work_dir(cfg, args.config, args.work_dir, demo=args.demo)
    let_processes_meet(cfg)
    with linked_ranks():
        runner = build_tester(cfg, args.checkpoint, tta=args.tta, dtype=args.dtype)
        if args.show_dir:
            runner.register_hook(DrawHook(Path(args.show_dir), args.show_score))
        if args.dump:
            runner.register_hook(dump_hook(runner, Path(args.dump)))
        runner.test()
