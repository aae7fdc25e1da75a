"""Speed and memory of backbones and of whole models, in turn with each other and with peers.

Candidates, with random weights, are backbones of ours (--archs), of other packages (--peers) and
whole models (--configs); the first that can run, of --peers before --archs before --configs, is the
unit of the ratios. Who cannot run is named, the others go on, and the exit status is 1. One may
take part several times: shvit:s4 shvit:s4+compile shvit:s4+deploy. With --isolate each has a
process of its own, where no other's freed memory serves it. --cards measures what testing and
training each config takes instead; with --runtimes also the fused model and its ONNX file, in turn.
Results are benchmark.md, .json and .png, or cards.md and .json; cards go on after an interruption.
"""

from __future__ import annotations

import argparse

import torch

from vitbackbones.benchmark import Contest, CostCards, Setting, usual_sizes
from vitbackbones.benchmark.candidates import DTYPES, MMDET
from vitbackbones.benchmark.runtimes import RUNTIMES
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.predict import usable_device

from . import arguments

SETTING = ('batch', 'compile', 'channels_last', 'deploy')
OF_CARDS = ('batch', 'device', 'rounds', 'runtimes')
CONTEST = ('peers', 'archs', 'configs', 'arch_options', 'rounds', 'isolate')
FLAGS = {
    '--compile': 'torch.compile every backbone; for eval freezing its weights',
    '--channels-last': 'NHWC in memory',
    '--deploy': 'fuse what is ours',
    '--isolate': 'each candidate in a process of its own',
}
# What --cards leaves to each config, with the value that it has then.
NOT_OF_CARDS = {
    **{name: [] for name in ('archs', 'peers', 'configs')},
    **{flag[2:].replace('-', '_'): False for flag in FLAGS},
    **dict(dtype='fp32', mode='eval'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    peers = f'timm:NAME, mmdet:NAME ({", ".join(MMDET)}) or module:callable making a network'
    for option, metavar, help_ in (
        ('--archs', 'ARCH', "sepvit:tiny gcvit:tiny ..., or 'all' of them"),
        ('--peers', 'PEER', peers),
        ('--configs', 'CONFIG', 'detectors, segmentors and classifiers, as for training'),
        ('--cards', 'CONFIG', "or 'all' that are shipped"),
        ('--runtimes', 'RUNTIME', f'of --cards, beside PyTorch: {", ".join(RUNTIMES)}'),
    ):
        parser.add_argument(option, nargs='+', default=[], metavar=metavar, help=help_)
    pair, help_ = 'KEY=VALUE', 'of all --archs: out_indices=[2] with_cp=True'
    parser.add_argument(
        '--arch-options', nargs='+', action=arguments.KeyValue, default={}, metavar=pair, help=help_
    )
    help_ = 'of images, HEIGHTxWIDTH (512x512; of classifiers what they are tested at)'
    parser.add_argument('--sizes', nargs='+', default=[], help=help_)
    parser.add_argument('--batch', type=int, default=1, help='images at a time (%(default)s)')
    arguments.add_device(parser)
    for option, value, help_ in (
        ('--dtype', 'fp32', f'{", ".join(DTYPES)}; autocast in training'),
        ('--mode', 'eval', 'eval, or train: forward and backward'),
    ):
        parser.add_argument(option, default=value, help=f'{help_} (%(default)s)')
    for option, help_ in FLAGS.items():
        parser.add_argument(option, action='store_true', help=help_)
    parser.add_argument('--threads', type=int, help="of torch on a CPU (torch's own choice)")
    arguments.add_rounds(parser, 'of all in turn')
    parser.add_argument('--out-dir', default='work_dirs/benchmark', help='(%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Measure as ``args`` say; 130 if that was interrupted, 1 if some could not run, else 0.

    Raises:
        UserError: an option is not right, a candidate cannot be built, or none can run.
    """
    study = _study(args)
    try:
        study.measure()
    except KeyboardInterrupt:
        notice('interrupted; what was measured is kept')
        return 130
    finally:
        print(study.report(), end='')
        print(f'results are in {args.out_dir}')
    return 1 if isinstance(study, Contest) and study.failures else 0


def _study(args: argparse.Namespace) -> Contest | CostCards:
    arguments.require_choice(args, 'dtype', DTYPES)
    arguments.require_choice(args, 'mode', ('eval', 'train'))
    arguments.require_positive(args, 'batch', 'threads', 'rounds')
    if not (args.archs or args.peers or args.configs or args.cards):
        raise UserError('name candidates with --archs, --peers or --configs, or configs of --cards')
    if args.runtimes and not args.cards:
        raise UserError('--runtimes goes with --cards')
    given = [name for name, usual in NOT_OF_CARDS.items() if getattr(args, name) != usual]
    if args.cards and (given or len(args.sizes) > 1):
        raise UserError(
            '--cards goes with one of --sizes, --batch, --device, --threads and --rounds, not '
            f'with {", ".join("--" + name.replace("_", "-") for name in given) or "several"}'
        )
    setting = Setting(
        device=usable_device(args.device),
        dtype=DTYPES[args.dtype],
        train=args.mode == 'train',
        **{name: getattr(args, name) for name in SETTING},
    )
    sizes = [arguments.read_size(word) for word in args.sizes]
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    folder = arguments.make_folder(args.out_dir)
    if args.cards:
        options = {name: getattr(args, name) for name in OF_CARDS}
        return CostCards(args.cards, folder, size=sizes[0] if sizes else None, **options)
    sizes = sizes or usual_sizes([] if args.archs or args.peers else args.configs)
    options = {name: getattr(args, name) for name in CONTEST}
    return Contest(setting=setting, sizes=sizes, folder=folder, **options)
