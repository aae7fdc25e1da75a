"""Report what a model gets right and wrong on its config's test set.

vitbackbones report CONFIG CHECKPOINT --out-dir DIR
vitbackbones report CONFIG MODEL.onnx --out-dir DIR
vitbackbones report CONFIG --predictions PATH --out-dir DIR

The folder gets report.html, which needs no other file, the same figures as report.json,
per_class.csv and per_image.csv, the plots as plots/*.png, and the predictions, unless they were
given. Detectors: average precision by class, size and overlap; precision, recall and F1 over
score, and the best threshold; the confusion matrix; kinds of error, and what putting them right
would bring; what is missed; the worst images. Segmentors: IoU and accuracy by class, near borders
and inside; the confusion matrix; the worst images. One of these that cannot be read is named, all
else is there, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vitbackbones.errors import UserError, notice
from vitbackbones.launch.loading import load_config, work_dir
from vitbackbones.reporting.report import report

from .arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', nargs='?', help='a checkpoint, or an ONNX file of a whole model'
    )
    parser.add_argument(
        '--predictions',
        metavar='PATH',
        help='what `test --dump` has written, in place of a checkpoint; predictions.json of '
        '`infer` too',
    )
    parser.add_argument('--out-dir', required=True, help='where the report is written')
    parser.add_argument(
        '--against',
        metavar='REPORT',
        help='an earlier report, its folder or report.json: say what got better and worse',
    )
    parser.add_argument(
        '--worst', type=int, default=12, metavar='N', help='images on it (%(default)s); 0 for none'
    )


def run(args: argparse.Namespace) -> int:
    """Report as ``args`` say; 1 if one of the worst images cannot be shown.

    Raises:
        UserError: the config, an option, the data or predictions are not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    if args.worst < 0:
        raise UserError(f'--worst {args.worst} must be at least 0')
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    cfg.launcher = 'none'
    cfg.work_dir = work_dir(cfg, args.config, None, demo=args.demo)
    out = Path(args.out_dir)
    figures, not_shown = report(
        cfg,
        out,
        source=args.checkpoint,
        predictions=None if args.predictions is None else Path(args.predictions),
        against=None if args.against is None else Path(args.against),
        images=args.worst,
        facts={'config': args.config, 'predictions of': args.checkpoint or args.predictions or ''},
    )
    if figures.get('predictions') == 0:
        print('the model has predicted nothing: the report is empty but for that')
    for name, reason in not_shown.items():
        notice(f'{name} is one of the worst images and cannot be shown: {reason}')
    print(f'the report is {out / "report.html"}')
    return 1 if not_shown else 0
