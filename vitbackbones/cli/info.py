"""List the backbones, their variants, channels, strides and parameters."""

from __future__ import annotations

import argparse
import difflib

import torch

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError
from vitbackbones.pretrained import list_backbones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('backbone', nargs='?', help='SepViT, ..., or a variant: gcvit_tiny (all)')
    parser.add_argument('arch', nargs='?', help='a variant of it (all)')


def run(args: argparse.Namespace) -> None:
    """Print one line per variant.

    Raises:
        UserError: unknown backbone or variant.
    """
    variants = _chosen(args.backbone, args.arch)
    print(f'{"name":18} {"backbone":10} {"arch":10} {"parameters":>12}  {"channels":24} strides')
    for cls, arch in variants:
        with torch.device('meta'):
            net = cls(arch)
        size = sum(p.numel() for p in net.parameters()) / 1e6
        channels, strides = (' '.join(map(str, v)) for v in (net.out_channels, net.out_strides))
        name = f'{cls.__name__.lower()}_{arch}'
        print(f'{name:18} {cls.__name__:10} {arch:10} {size:10.2f} M  {channels:24} {strides}')


def _chosen(backbone: str | None, arch: str | None) -> list[tuple[type[Backbone], str]]:
    """The variants of a backbone by the name of its class or, as `create` takes it, of one."""
    classes = {name.lower(): cls for name, cls in Backbone.registered().items()}
    if backbone is None:
        return [(cls, each) for cls in classes.values() for each in cls.archs]
    name = backbone.lower()
    if name not in classes and name in list_backbones():
        if arch is not None:
            raise UserError(f'{backbone!r} is a variant already: leave out {arch!r}')
        name, _, arch = name.partition('_')
    if name not in classes:
        near = difflib.get_close_matches(name, [*classes, *list_backbones()], n=3)
        choices = near or [cls.__name__ for cls in classes.values()]
        raise UserError(f'unknown backbone {backbone!r}, choose from {", ".join(choices)}')
    cls = classes[name]
    if arch is not None and arch not in cls.archs:
        raise UserError(f'{cls.__name__} has no arch {arch!r}, choose from {", ".join(cls.archs)}')
    return [(cls, each) for each in ([arch] if arch else cls.archs)]
