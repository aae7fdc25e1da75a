"""Batches of several image sizes: how many, in which order, and after resuming."""

from __future__ import annotations

import contextlib
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS
from mmengine.runner import Runner
from torch import Tensor, nn

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
    def __init__(self, length: int = 4, **options: Any) -> None:
        self.length = length
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(img=np.zeros((30, 40, 3), np.uint8)) for _ in range(self.length)]


def test_the_crop_takes_the_size_of_the_batch() -> None:
    import mmcv.transforms  # noqa: F401

    step = dict(type='vitbackbones.ToBatchSize', sizes=SIZES, transform=CROP)
    dataset = Images(pipeline=[TRANSFORMS.build(step)])
    index = pickle.loads(pickle.dumps(SizedIndex(2, 192)))  # what reaches a worker
    item = dataset[index]
    assert item['img'].shape == (192, 192, 3)
    assert type(item['sample_idx']) is int
    assert dataset[3]['img'].shape == (224, 224, 3)  # whoever looks at a sample by itself


STEP = dict(type='vitbackbones.ToBatchSize', sizes=[8, 16], transform=CROP)


def repeat(inner: Any, times: int) -> Any:
    return dict(type='RepeatDataset', dataset=inner, times=times)


def concat(*inner: Any) -> Any:
    return dict(type='ConcatDataset', datasets=[*inner])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda inner: repeat(inner, 3),
        lambda inner: concat(inner, inner, inner),
        lambda inner: repeat(concat(repeat(inner, 2), inner), 1),
    ],
    ids=['repeat', 'concat', 'nested'],
)
def test_wrappers_hand_on_the_size_of_the_batch(wrap: Any) -> None:
    import mmcv.transforms  # noqa: F401

    dataset = DATASETS.build(wrap(dict(type=Images, pipeline=[TRANSFORMS.build(STEP)])))
    sampler = DefaultSampler(dataset, shuffle=True, seed=0)
    drawn = [*MultiScaleBatchSampler(sampler, 2, [8, 16], base_size=16)]
    assert {*sizes_of(drawn)} == {8, 16}
    assert {int(index) for batch in drawn for index in batch} == {*range(12)}
    for index in (index for batch in drawn for index in batch):
        item = dataset[pickle.loads(pickle.dumps(index))]
        assert item['img'].shape == (index.size, index.size, 3)


class Labelled(Images):
    def get_cat_ids(self, idx: int) -> list[int]:
        return [idx % 2]


def test_a_wrapper_that_loses_the_sizes_is_named_before_training() -> None:
    plain = dict(type=Images)
    balanced = dict(type='ClassBalancedDataset', dataset=dict(type=Labelled), oversample_thr=0.9)
    for whole in (balanced, repeat(balanced, 2), concat(plain, balanced, plain)):
        sampler = DefaultSampler(DATASETS.build(whole))
        with pytest.raises(
            ValueError, match='ClassBalancedDataset hands on indices without the sizes of their'
        ):
            MultiScaleBatchSampler(sampler, 2, [8, 16])


class Recorder(BaseModel):
    """Learns next to nothing and writes down what it is given."""

    def __init__(self, stop_after: int = 99) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.stop_after = stop_after
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, inputs: list[Tensor], index: list[int], mode: str) -> dict[str, Tensor]:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append((tuple(inputs[0].shape), tuple(index)))
        return dict(loss=self.weight.square())


def pack(results: dict[str, Any]) -> dict[str, Any]:
    return dict(inputs=torch.from_numpy(results['img']), index=results['sample_idx'])


def train(folder: Path, **options: Any) -> list[Any]:
    step = dict(type='vitbackbones.ToBatchSize', sizes=[8, 16], transform=CROP, default=16)
    batches = dict(type='vitbackbones.MultiScaleBatchSampler', sizes=[8, 16], base_size=16)
    model = Recorder(options.pop('stop_after', 99))
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Images(length=40, pipeline=[TRANSFORMS.build(step), pack]),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=batches,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type='vitbackbones.DurableHook')],
        randomness=dict(seed=5),
        log_level='ERROR',
        experiment_name=folder.name + str(options),
        default_scope='mmengine',
        **options,
    )
    with contextlib.suppress(KeyboardInterrupt):
        runner.train()
    return model.seen


def test_a_training_goes_on_with_the_batches_that_it_would_have_had(tmp_path: Path) -> None:
    import mmcv.transforms  # noqa: F401

    whole = train(tmp_path / 'whole')
    assert len(whole) == 2 * 8  # of 8 and of 2 images: 10 in two batches
    assert {(shape, len(index)) for shape, index in whole} == {((8, 8, 3), 8), ((16, 16, 3), 2)}
    first = train(tmp_path / 'cut', stop_after=11)
    rest = train(tmp_path / 'cut', resume=True)
    assert first + rest == whole


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
