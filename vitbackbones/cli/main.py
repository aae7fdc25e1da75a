"""Entry point of ``vitbackbones COMMAND ...``, ``python -m vitbackbones`` and ``tools/*.py``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

import vitbackbones
from vitbackbones.checkpoint import CheckpointError

from .errors import UserError

COMMANDS = ('train', 'test', 'infer', 'demo', 'demo-data', 'convert', 'info', 'doctor')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 2 when the user has to mend something."""
    # mmengine 0.10.7 imports pkg_resources at every step, and says so each time.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(argv[0] if argv else None)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except (UserError, CheckpointError) as error:
        print(f'vitbackbones {args.command}: {error}', file=sys.stderr)
        return 2


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """All commands; only the chosen one is given its arguments, which keeps starting quick."""
    parser = argparse.ArgumentParser(prog='vitbackbones', description=vitbackbones.__doc__)
    parser.add_argument('--version', action='version', version=vitbackbones.__version__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        module = import_module(f'.{name.replace("-", "_")}', __package__)
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
