"""Extract the weights of a checkpoint: no optimizer, no arguments, nothing that needs pickle.

The names of the tensors stay, so the result loads wherever the original does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import vitbackbones
from vitbackbones.checkpoint import find_weights, hash_in_name, read_checkpoint
from vitbackbones.checkpoint.writing import write_weights
from vitbackbones.errors import UserError

SUFFIXES = {'.safetensors': 'safetensors', '.pth': 'pth', '.pt': 'pth'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('input', metavar='IN', help='path or URL of a checkpoint')
    parser.add_argument('output', metavar='OUT', type=Path, help='file to write')
    parser.add_argument(
        '--to', choices=('safetensors', 'pth'), help="format, if OUT's suffix does not tell"
    )
    parser.add_argument(
        '--weights',
        choices=('auto', 'plain', 'ema'),
        default='auto',
        help='trained or averaged (EMA) weights; auto takes what published loaders take',
    )
    parser.add_argument('--sha256', help='digest that IN must have, or its first digits')
    parser.add_argument(
        '--allow-pickle', action='store_true', help='let IN run code while it is read: trust it'
    )
    parser.add_argument('--force', action='store_true', help='overwrite OUT')


def run(args: argparse.Namespace) -> None:
    """Convert as ``args`` say.

    Raises:
        UserError: OUT cannot be written.
        CheckpointError: IN cannot be read or holds no weights.
    """
    output: Path = args.output
    kind = _format(output, args.to)
    if hash_in_name(output.name):
        raise UserError(f'{output.name} ends in digits that name another SHA-256; leave them out')
    if output.exists() and not args.force:
        raise UserError(f'{output} exists; overwrite it with --force')
    content = read_checkpoint(args.input, sha256=args.sha256, allow_pickle=args.allow_pickle)
    weights, holder = find_weights(content, args.weights, source=args.input)
    meta = {
        'format': 'pt',
        'source': Path(args.input).name,
        'weights': holder,
        'vitbackbones': vitbackbones.__version__,
    }
    try:
        write_weights(weights, meta, output, kind)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        raise UserError(f'{output} cannot be written ({error})') from error
    print(f'{output}: {len(weights)} tensors of {holder!r} in {args.input}')


def _format(output: Path, to: str | None) -> str:
    by_suffix = SUFFIXES.get(output.suffix)
    if to and by_suffix and to != by_suffix:
        raise UserError(f'--to {to} contradicts the suffix of {output.name}')
    kind = to or by_suffix
    if kind is None:
        raise UserError(f'{output.name}: say --to safetensors or --to pth, or use such a suffix')
    return kind
