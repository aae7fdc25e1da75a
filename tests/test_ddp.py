"""Two and four processes train as one: equal losses and weights on equal global batches.

Runs of the command line, with gloo between the processes. That the losses of the ranks average to
those of one process with all their images holds where

- nothing is drawn at random: no sampling of boxes, drop path, dropout, flips or shuffling;
- no image looks at another: LayerNorm and GroupNorm, no BatchNorm;
- all ranks divide their loss by the same number. mmseg divides by the pixels, which are as many
  for each; mmdet's RetinaNet by the positive anchors of the rank's own images, which it does not
  exchange. So all images here have boxes at the same places (and of different classes).

The losses after the first step hold the runs' updates against each other as well: they differ
unless the gradients were averaged over the ranks. So do the weights at the end, where AdamW leaves
them alone: of a gradient that is zero but for rounding, that of an attention's key bias, say, it
makes a whole step. Its ``eps`` is therefore above rounding here.
"""

from __future__ import annotations

import functools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner, Runner
from PIL import Image
from torch import multiprocessing

from tests.small import SMALL
from vitbackbones.cli.main import main

ROOT = Path(__file__).parents[1]
STEPS, BATCH, SIDE = 3, 4, 64
BOXES = ((4, 6, 30, 28), (26, 22, 32, 36))  # x, y, width, height

DETECTOR = """
_base_ = '{root}/configs/detection/sepvit_retinanet.py'
model = dict(
    backbone=dict(arch={arch}, drop_path_rate=0.0),
    neck=dict(in_channels={channels}[1:], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, eps=1e-4))  # a wrong update shows in the next loss
dataset = dict(
    type='CocoDataset',
    ann_file='{data}/coco.json',
    data_prefix=dict(img='{data}/images'),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ],
)
"""
SEGMENTOR = """
_base_ = '{root}/configs/segmentation/sepvit_upernet.py'
norm = dict(_delete_=True, type='GN', num_groups=4)
model = dict(
    data_preprocessor=dict(size=({side}, {side})),
    backbone=dict(arch={arch}, drop_path_rate=0.0),
    decode_head=dict(in_channels={channels}, channels=16, dropout_ratio=0.0, norm_cfg=norm),
    auxiliary_head=dict(in_channels={channels}[2], channels=16, dropout_ratio=0.0, norm_cfg=norm),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2, eps=1e-4))
dataset = dict(
    type='ADE20KDataset',
    data_prefix=dict(img_path='{data}/images', seg_map_path='{data}/labels'),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ],
)
"""
CONFIGS = dict(retinanet=DETECTOR, upernet=SEGMENTOR)
TRAINING = """
train_dataloader = dict(
    _delete_=True,
    batch_size={batch},
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dataset,
)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters={steps})
val_dataloader = val_evaluator = val_cfg = None
param_scheduler = []
randomness = dict(seed=0)
custom_hooks = [dict(type='RecordLosses')]
"""


@HOOKS.register_module()
class RecordLosses(Hook):
    """Writes losses of every step and final weights, of every rank to files of its own."""

    def before_train(self, runner: Runner) -> None:
        self.losses: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append({k: float(v) for k, v in outputs.items() if 'loss' in k})

    def after_train(self, runner: Runner) -> None:
        file = Path(runner.work_dir, f'losses_{runner.rank}.json')
        file.write_text(json.dumps(self.losses))
        state = runner.model.state_dict()
        weights = {name.removeprefix('module.'): value for name, value in state.items()}
        torch.save(weights, Path(runner.work_dir, f'weights_{runner.rank}.pth'))


def enter(rank: int, ranks: int, port: int, folder: Path, config: str) -> str:
    """Become one of ``ranks`` processes; the config's name."""
    torch.set_num_threads(1)
    os.chdir(folder)
    name = f'{rank}_of_{ranks}.py'
    Path(name).write_text(config)
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=ranks, RANK=rank)
    os.environ |= {key: str(value) for key, value in place.items()} | {'LOCAL_RANK': str(rank)}
    return name


def train(rank: int, ranks: int, *place: Any) -> None:
    """One process of a run with ``ranks`` processes."""
    name = enter(rank, ranks, *place)
    launcher = 'pytorch' if ranks > 1 else 'none'
    assert main(['train', name, '--work-dir', f'run_{ranks}', '--launcher', launcher]) == 0


def train_sharded(rank: int, ranks: int, *place: Any) -> None:
    """The same by mmengine's FlexibleRunner, with FSDP if several."""
    cfg = Config.fromfile(enter(rank, ranks, *place))
    if ranks > 1:
        torch.distributed.init_process_group('gloo')  # mmengine would ask for a GPU first
    options = {key: cfg[key] for key in ('model', 'optim_wrapper', 'train_dataloader')}
    strategy = dict(
        type='FSDPStrategy',
        model_wrapper=dict(
            type='MMFullyShardedDataParallel', device_id=torch.device('cpu'), use_orig_params=True
        ),
        # 'full' would move weights off the GPU: without one, what is saved has been freed by then.
        state_dict_cfg=dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
        ),
    )
    runner = FlexibleRunner(
        **options,
        strategy=strategy if ranks > 1 else None,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=STEPS),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=STEPS)),
        custom_hooks=cfg.custom_hooks,
        randomness=cfg.randomness,
        launcher='pytorch' if ranks > 1 else 'none',
        default_scope=cfg.default_scope,
        work_dir=f'sharded_{ranks}',
        experiment_name='sharded',
    )
    runner.train()
    held = sum(param.numel() for param in runner.model.parameters())
    Path(f'held_{rank}').write_text(f'{held}')


Weights = dict[str, torch.Tensor]


def start(target: Callable[..., None], folder: Path, name: str, ranks: int) -> Path:
    """Run ``target`` in ``ranks`` processes; their folder."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    arch = SMALL['SepViT']
    values = dict(root=ROOT, data=folder / 'data', channels=list(arch['dims']))
    values['arch'] = {**arch, '_delete_': True}
    text = CONFIGS[name] + TRAINING
    text = text.format(**values, batch=BATCH // ranks, steps=STEPS, side=SIDE)
    place = folder / name
    place.mkdir(exist_ok=True)
    args = (ranks, port, place, text)
    multiprocessing.start_processes(target, args, nprocs=ranks, start_method='fork')
    return place


@functools.cache
def run(folder: Path, name: str, ranks: int) -> tuple[list[dict[str, float]], list[Weights]]:
    """Losses of each step, averaged over ``ranks`` processes, and the weights each ends with."""
    return results(start(train, folder, name, ranks) / f'run_{ranks}', ranks)


def results(work_dir: Path, ranks: int) -> tuple[list[dict[str, float]], list[Weights]]:
    files = [work_dir / f'losses_{rank}.json' for rank in range(ranks)]
    steps = zip(*(json.loads(file.read_text()) for file in files), strict=True)
    losses = [{key: sum(rank[key] for rank in step) / ranks for key in step[0]} for step in steps]
    return losses, [torch.load(work_dir / f'weights_{rank}.pth') for rank in range(ranks)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with boxes of random classes, and with label maps, of which a part is ignored."""
    folder = tmp_path_factory.mktemp('ddp')
    for name in ('images', 'labels'):
        (folder / 'data' / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(STEPS * BATCH):
        noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f'data/images/{i:02}.jpg')
        labels = np.kron(rng.integers(0, 5, (8, 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
        Image.fromarray(labels).save(folder / f'data/labels/{i:02}.png')
        images.append(dict(id=i, file_name=f'{i:02}.jpg', width=SIDE, height=SIDE))
        for box in BOXES:
            row = dict(image_id=i, category_id=int(rng.integers(1, 81)), bbox=box, iscrowd=0)
            annotations.append(row | dict(id=len(annotations), area=box[2] * box[3]))
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'data/coco.json').write_text(json.dumps(content))
    return folder


several = pytest.mark.parametrize('ranks', [2, 4])
models = pytest.mark.parametrize('name', CONFIGS)


@models
@several
def test_losses_of_the_ranks_average_to_those_of_one_process(
    name: str, ranks: int, folder: Path
) -> None:
    (one, _), (several, _) = (run(folder, name, number) for number in (1, ranks))
    assert len(one) == len(several) == STEPS
    for alone, together in zip(one, several, strict=True):
        assert together == pytest.approx(alone, rel=0, abs=1e-4)
    assert abs(one[0]['loss'] - one[-1]['loss']) > 1e-2  # the updates do change the loss


@models
@several
def test_weights_of_all_ranks_end_equal_to_those_of_one_process(
    name: str, ranks: int, folder: Path
) -> None:
    (_, (alone,)), (_, together) = (run(folder, name, number) for number in (1, ranks))
    assert len(together) == ranks
    for weights in together:
        torch.testing.assert_close(weights, together[0], rtol=0, atol=0)
    torch.testing.assert_close(together[0], alone, rtol=0, atol=1e-4)


@pytest.mark.endurance
@models
@several
def test_ranks_that_share_the_weights_train_as_one_process(
    name: str, ranks: int, folder: Path
) -> None:
    # Not the runs above: their runner draws other weights to start from.
    one, (alone,) = results(start(train_sharded, folder, name, 1) / 'sharded_1', 1)
    place = start(train_sharded, folder, name, ranks)
    several, (weights, *others) = results(place / f'sharded_{ranks}', ranks)
    assert others == [{}] * (ranks - 1)
    for single, together in zip(one, several, strict=True):
        assert together == pytest.approx(single, rel=0, abs=1e-4)
    torch.testing.assert_close(weights, alone, rtol=0, atol=1e-4)
    saved = torch.load(place / f'sharded_{ranks}/iter_{STEPS}.pth')['state_dict']
    torch.testing.assert_close(saved, weights, rtol=0, atol=0)
    held = [int((place / f'held_{rank}').read_text()) for rank in range(ranks)]
    trained = sum(value.numel() for value in weights.values())
    assert sum(held) <= trained + ranks
    assert max(held) <= trained // ranks + 4  # FSDP aligns to 16 bytes
