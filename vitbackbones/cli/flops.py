"""Print counted multiply-adds next to published ones, and of SepViT's blocks, Swin's and Twins'.

Nothing is computed: the networks run on torch's meta device.
"""

from __future__ import annotations

import argparse

from vitbackbones.benchmark.published import SIDE, compare_archs, compare_blocks
from vitbackbones.tables import markdown

ARCHS = ('variant', 'input', 'counted', 'published', 'ratio')
BLOCKS = ('stage', 'one SepViT block', 'two of Swin', 'ratio', 'two of Twins', 'ratio')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> None:
    """Print both tables.

    Raises:
        UserError: mmdet or mmsegmentation cannot be imported.
    """
    print('Multiply-adds in G for one image; backbones without the classifier.\n')
    print(markdown(ARCHS, compare_archs()))
    print(f'\nMultiply-adds in G of one exchange within and between windows, at {SIDE} x {SIDE}.\n')
    print(markdown(BLOCKS, compare_blocks()), end='')
