"""Batches of several image sizes: how many, in which order, and after resuming."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS

from vitbackbones.data.multi_scale import MultiScaleBatchSampler, SizedIndex, ToBatchSize

SIZES = [160, 192, 224, 256, 288, 320]
PUBLISHED = {160: 248, 192: 176, 224: 128, 256: 128, 288: 128, 320: 128}
CROP = dict(type='Resize', scale=0, keep_ratio=False)


def batches(images: int, epoch: int = 0, seed: int = 3, batch_size: int = 128) -> list[Any]:
    sampler = DefaultSampler(range(images), shuffle=True, seed=seed)
    made = MultiScaleBatchSampler(sampler, batch_size, SIZES)
    sampler.set_epoch(epoch)
    drawn = list(made)
    assert len(drawn) == len(made)
    return drawn


def sizes_of(drawn: list[Any]) -> list[int]:
    assert all(len({index.size for index in batch}) == 1 for batch in drawn)
    return [batch[0].size for batch in drawn]


def test_batches_have_the_published_numbers_of_images() -> None:
    drawn = batches(10_000)
    assert {batch[0].size: len(batch) for batch in drawn} == PUBLISHED
    counts = Counter(sizes_of(drawn))
    assert set(counts) == set(SIZES)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize('images', [1, 100, 935, 936, 937, 5000, 12_345])
def test_epochs_are_equally_long_and_go_once_through_the_images(images: int) -> None:
    lengths = set()
    for epoch in range(5):
        drawn = batches(images, epoch)
        lengths.add(len(drawn))
        seen = [int(index) for batch in drawn for index in batch]
        assert abs(len(seen) - images) <= 320
        assert len({*seen}) == min(len(seen), images)
    assert len(lengths) == 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = batches(5000, epoch=2)
    assert batches(5000, epoch=2) == first
    assert sizes_of(batches(5000, epoch=2)) == sizes_of(first)
    assert sizes_of(batches(5000, epoch=3)) != sizes_of(first)
    assert sizes_of(batches(5000, epoch=2, seed=4)) != sizes_of(first)


def test_all_processes_have_images_of_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        drawn.append(batches(6000))
    assert sizes_of(drawn[0]) == sizes_of(drawn[1])
    seen = [{int(index) for batch in each for index in batch} for each in drawn]
    assert len(seen[0] & seen[1]) < 400  # what fills the last batches


class Images(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(img=np.zeros((30, 40, 3), np.uint8)) for _ in range(4)]


def test_the_crop_takes_the_size_of_the_batch() -> None:
    import mmcv.transforms  # noqa: F401

    step = dict(type='vitbackbones.ToBatchSize', sizes=SIZES, transform=CROP)
    dataset = Images(pipeline=[TRANSFORMS.build(step)])
    index = pickle.loads(pickle.dumps(SizedIndex(2, 192)))  # what reaches a worker
    item = dataset[index]
    assert item['img'].shape == (192, 192, 3)
    assert type(item['sample_idx']) is int
    assert dataset[3]['img'].shape == (224, 224, 3)  # whoever looks at a sample by itself


def test_slips_are_refused() -> None:
    sampler = DefaultSampler(range(4))
    build = DATA_SAMPLERS.build
    kind = 'vitbackbones.MultiScaleBatchSampler'
    with pytest.raises(ValueError, match=r'sizes=\[\] must list sides in pixels'):
        build(dict(type=kind, sizes=[], sampler=sampler, batch_size=2))
    with pytest.raises(ValueError, match='sampler=InfiniteSampler must be one for a loop over ep'):
        build(dict(type=kind, sizes=[64], sampler=InfiniteSampler(range(4)), batch_size=2))
    with pytest.raises(ValueError, match=r"ToBatchSize: sizes=\['a'\] must list sides"):
        ToBatchSize(['a'], CROP)
