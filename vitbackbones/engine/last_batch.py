"""Batches that a model cannot learn from for their number of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from torch import nn


def lonely_images(model: nn.Module, dataloader: Any) -> Iterator[str]:
    """Say so if the last batch of an epoch is one image, and a BatchNorm1d has no others to see.

    Classifiers have one behind the mean over a map; with one image there is one value for each
    channel, and torch refuses to normalise it.

    Args:
        model: as it is trained.
        dataloader: of training; anything, or nothing, may stand in its place.
    """
    batches = getattr(dataloader, 'batch_sampler', None)
    size, drops = getattr(batches, 'batch_size', None), getattr(batches, 'drop_last', True)
    if not isinstance(size, int) or not _needs_several(model):
        return
    images = _length(getattr(batches, 'sampler', None))
    if size == 1 or (images is not None and images % size == 1 and not drops):
        which = f'the last batch of an epoch ({images} images by {size})'
        which = 'each batch' if size == 1 else which
        drop = '' if size == 1 else ', or train_dataloader.drop_last=True'
        yield (
            f'{which} would have one image, and BatchNorm1d cannot learn from one: set '
            f'train_dataloader.batch_size to another number{drop}'
        )


def _needs_several(model: nn.Module) -> bool:
    return any(isinstance(part, nn.BatchNorm1d) and part.training for part in model.modules())


def _length(sampler: Any) -> int | None:
    """How many images a process is given in an epoch; None where there is no end."""
    endless = isinstance(sampler, InfiniteSampler) or not hasattr(sampler, '__len__')
    return None if endless else len(sampler)
