"""The published weights of a variant, as something that can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from .checkpoint.errors import CheckpointError
from .metafiles import classifier_of, start_of

#: What stands for them wherever a file could stand. A file of that name is ``./published``.
PUBLISHED = 'published'

OWN = (
    "give a file of your own in its place (init_cfg=dict(type='Pretrained', checkpoint=FILE), "
    'pretrained=FILE, --weights FILE), or start from random weights (init_cfg=None)'
)


def source_of(
    given: str, variant: Callable[[], str], *, classifier: bool = False
) -> tuple[str, str | None]:
    """What weights are read from, by what was given for them, and the digest known of it.

    Args:
        given: a path, an address, a name on the hub, or 'published'.
        variant: which one 'published' is of, as :func:`~vitbackbones.create` takes it.
        classifier: as in :func:`published_source`.

    Raises:
        CheckpointError: see :func:`published_source`, and what ``variant`` raises.
    """
    if given != PUBLISHED:
        return given, None
    return published_source(variant(), classifier=classifier)


def published_source(variant: str, *, classifier: bool = False) -> tuple[str, str | None]:
    """What the published weights of a variant are read from, and the digest known of it.

    What only a browser can fetch is looked for among torch hub's checkpoints, under its name in the
    model zoo.

    Args:
        variant: as :func:`~vitbackbones.create` takes it.
        classifier: those of the published classifier, not those that a dense network starts from:
            the same but for GC ViT large, whose classifier has the windows of 224 pixels.

    Raises:
        CheckpointError: nothing was published, or it has to be fetched with a browser first; the
            message says what, and where to put it.
    """
    start = classifier_of(variant) if classifier else start_of(variant)
    if start is None:
        raise CheckpointError(f'no weights of {variant} were ever published: {OWN}')
    if start.address:
        return start.address, start.sha256
    place = Path(torch.hub.get_dir(), 'checkpoints', f'{start.name}.pth')
    if not place.is_file():
        raise CheckpointError(
            f'the published weights of {variant} have to be fetched with a browser: save the file '
            f'of {start.page} as {place}, or {OWN}'
        )
    return str(place), start.sha256
