"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from mmengine.config import DictAction


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
