"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import DictAction

from vitbackbones.errors import UserError


class KeyValue(DictAction):
    """``KEY=VALUE`` words; values are literals (numbers, booleans, None, lists), never code."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for word in values:
            if '=' not in word:
                parser.error(f'{option_string}: expected KEY=VALUE, got {word!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError) as error:  # brackets: unbalanced, or far too many
            parser.error(f'{option_string}: {error}')


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """How the processes of a run were started."""
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of this run',
    )
    # torch.distributed.launch passes it; torchrun sets the environment instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all commands with a config share."""
    parser.add_argument(
        'config', help="a config file, or one of ours as 'vitbackbones::detection/...'"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValue,
        metavar='KEY=VALUE',
        help='change the config: model.backbone.with_cp=True optim_wrapper.optimizer.lr=1e-4',
    )
    parser.add_argument(
        '--demo',
        action='store_true',
        help='run on small generated images: no download, a short schedule, no published weights',
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The weights of a whole model."""
    parser.add_argument(
        'checkpoint',
        help='a checkpoint of `vitbackbones train`, or a published one; with a classifier '
        "'published' stands for its own",
    )


def add_device(parser: argparse.ArgumentParser, default: str = 'cpu') -> None:
    """Where networks run."""
    parser.add_argument('--device', default=default, help='cpu or cuda (%(default)s)')


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """What layers compute in."""
    help_ = 'fp32, bf16 or fp16: what backbone, neck and heads compute in (%(default)s)'
    parser.add_argument('--dtype', default='fp32', help=help_)


def add_rounds(parser: argparse.ArgumentParser, what: str) -> None:
    """How often ``what`` is timed."""
    parser.add_argument('--rounds', type=int, default=10, help=f'{what} (%(default)s)')


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Check options that count something and were given.

    Raises:
        UserError: one is below 1.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f'--{name.replace("_", "-")} {value} must be at least 1')


def require_choice(args: argparse.Namespace, name: str, choices: Iterable[str]) -> None:
    """Check an option with a few values.

    Raises:
        UserError: it has another one.
    """
    value = getattr(args, name)
    if value not in choices:
        raise UserError(f'--{name} {value}: unknown, choose from {", ".join(choices)}')


def read_size(word: str) -> tuple[int, int]:
    """Height and width of ``512x800`` or ``512``, a word of ``--sizes``.

    Raises:
        UserError: it is neither.
    """
    try:
        sides = [int(side) for side in word.split('x')]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UserError(f'--sizes {word}: expected HEIGHTxWIDTH in pixels, as in 800x1216')
    return sides[0], sides[-1]


def read_scale(word: str | None) -> tuple[int, int] | None:
    """Width and height of ``1333x800``, the word of ``--max-scale``; None if it was not given.

    Raises:
        UserError: it is no such word, or too small for any network.
    """
    if word is None:
        return None
    sides = word.lower().split('x')
    if len(sides) != 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        raise UserError(
            f'--max-scale {word}: expected WIDTHxHEIGHT in pixels, as in 1333x800, each from 32 on'
        )
    return int(sides[0]), int(sides[1])


def make_folder(name: str) -> Path:
    """The folder of ``--out-dir``, made if it is not there.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out-dir {folder}: {error.strerror}') from error
    return folder
