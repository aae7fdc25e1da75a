"""The metafiles, which OpenMIM reads too: what is published of each config, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.fileio import load

INDEX = Path(__file__).parent / '.mim' / 'model-index.yml'

Entry = Mapping[str, Any]


def read_index(path: Path) -> tuple[list[Entry], list[Entry]]:
    """Collections and models of all metafiles that a model index imports, in its order."""
    files = [load(path.parent / name) for name in load(path)['Import']]
    collections = [entry for file in files for entry in file['Collections']]
    return collections, [entry for file in files for entry in file['Models']]


def task_of(model: Entry) -> str:
    """The folder of its config: 'detection', 'classification' and so on.

    It is '_base_' for weights of a backbone.
    """
    return str(model['Config']).split('/')[1]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of a variant that its authors, or others, published: one row of the model zoo.

    Attributes:
        name: of the row.
        address: where programs can fetch the file; None where only browsers can.
        page: where a browser can; None if there is none besides the address.
        sha256: of the file, where it was published apart from its name.
        licence: in words.
        purpose: what they were trained for.
    """

    name: str
    address: str | None
    page: str | None
    sha256: str | None
    licence: str
    purpose: str


def weights_of(variant: str) -> tuple[Weights, ...]:
    """All published weights of a variant; the first are those that its config starts from.

    Args:
        variant: as :func:`~vitbackbones.create` takes it, ``'gcvit_tiny'``.
    """
    return _published(INDEX).get(variant, ())


def start_of(variant: str) -> Weights | None:
    """Which of them a variant starts from: the first that can be fetched, else the first."""
    listed = weights_of(variant)
    return next((each for each in listed if each.address), listed[0] if listed else None)


def classifier_of(variant: str) -> Weights | None:
    """Those of the published classifier: of the variant's own name, where it starts from others."""
    listed = {each.name: each for each in weights_of(variant)}
    return listed.get(variant.replace('_', '-', 1)) or start_of(variant)


@functools.cache
def _published(index: Path) -> Mapping[str, tuple[Weights, ...]]:
    collections, models = read_index(index)
    licences = {each['Name']: each['Metadata']['Weights License'] for each in collections}
    found: dict[str, tuple[Weights, ...]] = {}
    for model in models:
        variant = Path(model['Config']).stem.replace('-', '_', 1)
        if task_of(model) != '_base_':
            continue
        weights = Weights(
            name=model['Name'],
            address=model.get('Weights'),
            page=model.get('Weights Page'),
            sha256=model.get('SHA-256'),
            licence=licences[model['In Collection']],
            purpose=_purpose(model),
        )
        given = (weights,) if weights.address or weights.page else ()
        found[variant] = found.get(variant, ()) + given
    return found


def _purpose(model: Entry) -> str:
    size = model['Metadata']['Input Size']
    data = model['Metadata'].get('Training Data', ['ImageNet-1K'])
    return f'classifier, trained on {", then ".join(data)}, images of {size} x {size}'


def published_weights(network: str) -> Mapping[str, str] | None:
    """{arch: address, or page} of what each arch of a network starts from, where there is one.

    Args:
        network: name of its class.

    Returns:
        None if we ship no config of such a network; empty if nothing was ever published.
    """
    prefix = f'{network.lower()}_'
    variants = [variant for variant in _published(INDEX) if variant.startswith(prefix)]
    starts = [(variant.removeprefix(prefix), start_of(variant)) for variant in variants]
    places = {arch: start.address or start.page for arch, start in starts if start}
    found = {arch: place.removesuffix('/view') for arch, place in places.items() if place}
    return found if variants else None
