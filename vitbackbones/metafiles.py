"""The metafiles, which OpenMIM reads too: what is published of each config, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import load

INDEX = Path(__file__).parent / '.mim' / 'model-index.yml'

Entry = Mapping[str, Any]


def read_index(path: Path) -> tuple[list[Entry], list[Entry]]:
    """Collections and models of all metafiles that a model index imports, in its order."""
    files = [load(path.parent / name) for name in load(path)['Import']]
    collections = [entry for file in files for entry in file['Collections']]
    return collections, [entry for file in files for entry in file['Models']]


def task_of(model: Entry) -> str:
    """'detection', 'segmentation' or, for weights of a backbone, '_base_': where its config is."""
    return str(model['Config']).split('/')[1]


@functools.cache
def published_weights(network: str) -> Mapping[str, str] | None:
    """{arch: address} of a network's published ImageNet classifiers, one for each arch.

    That which the arch's config starts from, else the page of the first that is listed for it: what
    is on a drive has to be fetched with a browser. No digest of any of them was published.

    Args:
        network: name of its class.

    Returns:
        None if we ship no config of such a network; empty if nothing was ever published.
    """
    prefix = f'{network.lower()}-'
    found: dict[str, str] | None = None
    for entry in read_index(INDEX)[1]:
        name = Path(entry['Config']).stem
        if task_of(entry) != '_base_' or not name.startswith(prefix):
            continue
        found = {} if found is None else found
        start = Config.fromfile(INDEX.parent / entry['Config']).backbone.get('init_cfg')
        address = start.checkpoint if start else entry.get('Weights Page', '').removesuffix('/view')
        if address:
            found.setdefault(name.removeprefix(prefix), address)
    return found
