"""Training batches of several image sizes: small images come in larger batches.

The scheme of CAS-ViT's classifiers, and of MobileViT's (arXiv 2110.02178, section 3.3) and
EdgeNeXt's before. A batch sampler chooses the size of each batch and hands it on with the indices;
the crop of the pipeline reads it there::

    train_dataloader = dict(
        batch_size=128,
        batch_sampler=dict(type='vitbackbones.MultiScaleBatchSampler', sizes=[192, 224, 256]),
        dataset=dict(pipeline=[..., dict(
            type='vitbackbones.ToBatchSize', sizes=[192, 224, 256],
            transform=dict(type='RandomResizedCrop'),
        ), ...]),
    )

Deliberate difference: the published sampler draws each batch's size by itself, so that epochs
differ in their number of batches, which schedules and resuming go by. Here every size has as many
batches as the others, in an order drawn anew for each epoch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS

from vitbackbones.registry import DATA_SAMPLERS, TRANSFORMS, register


class SizedIndex(int):
    """The index of a sample that knows the side in pixels of its batch's images.

    So does the index inside a wrapper that computes it, as ``RepeatDataset`` and ``ConcatDataset``.
    """

    size: int

    def __new__(cls, index: int, size: int) -> SizedIndex:
        new = super().__new__(cls, index)
        new.size = size
        return new

    def __sub__(self, other: int) -> SizedIndex:
        return SizedIndex(int(self) - other, self.size)

    def __mod__(self, other: int) -> SizedIndex:
        return SizedIndex(int(self) % other, self.size)

    def __reduce__(self) -> tuple[type, tuple[int, int]]:  # on its way to a worker process
        return SizedIndex, (int(self), self.size)


def sized_batch(batch_size: int, size: int, base_size: int) -> int:
    """How many images of a size are in a batch.

    Those of ``base_size`` and larger ones come ``batch_size`` at a time; of smaller ones about as
    many pixels do, in a number of images rounded to a multiple of 8.
    """
    return max(batch_size, 8 * round(batch_size * (base_size / size) ** 2 / 8))


@register(DATA_SAMPLERS)
class MultiScaleBatchSampler:
    """Batches of :class:`SizedIndex`; all processes have the same sizes in the same order.

    All epochs have as many batches, with about as many images as the sampler has: some hundred of
    them may be left out of an epoch or be in it twice.

    Args:
        sampler: of indices, one epoch long, as mmengine's ``DefaultSampler``; its ``seed`` and
            ``epoch`` decide the order of sizes.
        batch_size: of ``base_size``, for each process.
        sizes: sides in pixels.
        base_size: see :func:`sized_batch`.

    Raises:
        ValueError: ``sizes`` are no positive numbers, the sampler knows no epochs, or a wrapper of
            datasets does not hand on the sizes of batches with indices.
    """

    def __init__(
        self, sampler: Any, batch_size: int, sizes: Sequence[int], base_size: int = 224
    ) -> None:
        if not hasattr(sampler, 'epoch'):
            raise ValueError(
                f'MultiScaleBatchSampler: sampler={type(sampler).__name__} must be one for a loop '
                "over epochs, as mmengine's DefaultSampler"
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.batches = {
            size: sized_batch(batch_size, size, base_size) for size in _checked(type(self), sizes)
        }
        _check_indices(getattr(sampler, 'dataset', None), sizes[0])

    def __len__(self) -> int:
        images, cycle = len(self.sampler), sum(self.batches.values())
        whole, rest = divmod(images, cycle)
        # What is left over is cut as evenly as it goes, by the mean number of images in a batch.
        return whole * len(self.batches) + -(-rest * len(self.batches) // cycle)

    def __iter__(self) -> Iterator[list[SizedIndex]]:
        indices = list(self.sampler)
        if not indices:
            return
        place = 0
        for size in self._sizes():
            chosen = (indices[i % len(indices)] for i in range(place, place + self.batches[size]))
            yield [SizedIndex(index, size) for index in chosen]
            place += self.batches[size]

    def _sizes(self) -> list[int]:
        """The sizes of an epoch's batches in their order."""
        draw = random.Random(f'{self.sampler.seed} {self.sampler.epoch}')
        whole, rest = divmod(len(self), len(self.batches))
        sizes = [*self.batches] * whole + draw.sample([*self.batches], rest)
        draw.shuffle(sizes)
        return sizes


@register(TRANSFORMS)
class ToBatchSize:
    """A transform at the size that the sample's batch has.

    Args:
        sizes: sides in pixels, those of the sampler.
        transform: config of a transform whose ``scale`` is that side.
        default: the side where there is no :class:`SizedIndex`: whoever looks at single samples.

    Raises:
        ValueError: ``sizes`` are no positive numbers.
    """

    def __init__(
        self, sizes: Sequence[int], transform: Mapping[str, Any], default: int = 224
    ) -> None:
        self.default = default
        self.transforms = {
            size: ROOT_TRANSFORMS.build({**transform, 'scale': size})
            for size in {*_checked(type(self), sizes), default}
        }

    def __call__(self, results: dict[str, Any]) -> Any:
        index = results.get('sample_idx')
        size = self.default
        if isinstance(index, SizedIndex):
            size = index.size
            results['sample_idx'] = int(index)
        return self.transforms[size](results)


def _check_indices(dataset: Any, size: int) -> None:
    """That a dataset, and what is wrapped in it, finds the size of its batch in an index.

    Raises:
        ValueError: it does not.
    """
    inner = [*getattr(dataset, 'datasets', ())]
    inner += [dataset.dataset] if hasattr(dataset, 'dataset') else []
    for part in inner:
        _check_indices(part, size)
    if not hasattr(dataset, 'get_data_info') or not len(dataset):  # mmengine's datasets have it
        return
    index = dataset.get_data_info(SizedIndex(len(dataset) - 1, size)).get('sample_idx')
    if not isinstance(index, SizedIndex):
        raise ValueError(
            f'MultiScaleBatchSampler: {type(dataset).__name__} hands on indices without the sizes '
            'of their batches: take RepeatDataset or ConcatDataset in its place, or '
            'train_dataloader.batch_sampler=None for batches of one size'
        )


def _checked(owner: type, sizes: Sequence[int]) -> Sequence[int]:
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f'{owner.__name__}: sizes={sizes} must list sides in pixels')
    return sizes
