"""List the backbones, their variants, channels, strides and parameters."""

from __future__ import annotations

import argparse

import torch

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('backbone', nargs='?', help='SepViT, ... (all)')
    parser.add_argument('arch', nargs='?', help='a variant of it (all)')


def run(args: argparse.Namespace) -> None:
    """Print one line per variant.

    Raises:
        UserError: unknown backbone or variant.
    """
    found = Backbone.registered()
    if args.backbone and args.backbone.lower() not in {name.lower() for name in found}:
        raise UserError(f'unknown backbone {args.backbone!r}, choose from {", ".join(found)}')
    print(f'{"backbone":12} {"arch":10} {"parameters":>12}  {"channels":24} strides')
    for name, cls in found.items():
        if args.backbone and name.lower() != args.backbone.lower():
            continue
        if args.arch and args.arch not in cls.archs:
            raise UserError(f'{name} has no arch {args.arch!r}, choose from {", ".join(cls.archs)}')
        for arch in [args.arch] if args.arch else cls.archs:
            with torch.device('meta'):
                net = cls(arch)
            size = sum(p.numel() for p in net.parameters()) / 1e6
            channels, strides = (' '.join(map(str, v)) for v in (net.out_channels, net.out_strides))
            print(f'{name:12} {arch:10} {size:10.2f} M  {channels:24} {strides}')
