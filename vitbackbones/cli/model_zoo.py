"""Print docs/model_zoo.md: published figures, weights and licences, from the metafiles.

The metafiles are those that model-index.yml imports, which OpenMIM reads too.
"""

from __future__ import annotations

import argparse

from vitbackbones.metafiles import INDEX, read_index
from vitbackbones.model_zoo import page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> None:
    """Print the page."""
    print(page(*read_index(INDEX)), end='')
