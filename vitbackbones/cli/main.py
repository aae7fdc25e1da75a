"""Entry point of ``vitbackbones COMMAND ...``, ``python -m vitbackbones`` and ``tools/*.py``."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

import vitbackbones
from vitbackbones.errors import UserError

# Only the chosen command is imported: `doctor` must run where nothing else does.
COMMANDS = {
    'new': 'write a config: a detector or segmentor with one of our backbones',
    'train': 'train a detector or segmentor',
    'check-data': 'find what is wrong with images and annotations before training',
    'test': 'measure a checkpoint on the test set',
    'report': 'say what a model gets right and wrong, as a page with plots and tables',
    'tradeoff': 'measure accuracy and cost of one checkpoint at many operating points',
    'benchmark': 'measure speed and memory of backbones, detectors and their peers in turn',
    'infer': 'run a trained model on images',
    'explain': 'draw what a trained model looks at in images',
    'demo': 'train, test and show a small detector on generated images',
    'demo-data': "generate small images in COCO's and ADE20K's format",
    'inspect': 'say what a weight file is and which of our networks it loads into',
    'convert': 'reduce a checkpoint to its weights, as safetensors or pth',
    'export': 'write a backbone, or backbone and neck, as ONNX',
    'flops': 'count multiply-adds of all variants, next to the published figures',
    'info': 'list backbones and variants with channels, strides and parameters',
    'model-zoo': 'print all configs with published figures, weights and licences, as Markdown',
    'doctor': 'check the installation, GPU and CUDA too, and say how to fix it',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 2 when the user has to fix something."""
    # mmengine 0.10.7 imports pkg_resources at every step, and says so each time.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors='backslashreplace')
    argv = list(sys.argv[1:] if argv is None else argv)
    broken = vitbackbones.import_error
    if broken is not None and argv and argv[0] in COMMANDS:
        reason = f'{type(broken).__name__}: {" ".join(str(broken).split())}'
        print(
            f'vitbackbones {argv[0]}: what it needs cannot be imported ({reason}); '
            '`vitbackbones doctor` says what is broken and how to fix it',
            file=sys.stderr,
        )
        return 2
    args = read_arguments(argv)
    try:
        return args.run(args) or 0
    except (UserError, getattr(vitbackbones, 'CheckpointError', UserError)) as error:
        print(f'vitbackbones {args.command}: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vitbackbones info | head`: nobody reads on, no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, wherever those without a name stand among its options.

    A parser of subcommands takes those before the first option for all that there are.
    """
    parser = argparse.ArgumentParser(prog='vitbackbones', description=vitbackbones.__doc__)
    parser.add_argument('--version', action='version', version=vitbackbones.__version__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if argv and argv[0] == name:
            module = import_module(f'.{name.replace("-", "_")}', __package__)
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run, command=name)
            return command.parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)
