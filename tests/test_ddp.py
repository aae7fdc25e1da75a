"""Two processes train as one: equal losses on equal global batches.

Runs of the command line, with gloo between the processes. That the losses of two ranks average to
those of one process with both their pictures holds where

- nothing is drawn at random: no sampling of boxes, drop path, dropout, flips or shuffling;
- no picture looks at another: LayerNorm and GroupNorm, no BatchNorm;
- both ranks divide their loss by the same number. mmseg divides by the pixels, which are as many
  for each; mmdet's RetinaNet by the positive anchors of the rank's own pictures, which it does not
  exchange. So all pictures here have boxes at the same places (and of different classes).

The losses after the first step hold the two runs' updates against each other as well: they differ
unless the gradients were averaged over the ranks.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
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
optim_wrapper = dict(optimizer=dict(lr=1e-3))  # so that a wrong update shows in the next loss
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
optim_wrapper = dict(optimizer=dict(lr=1e-2))
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
    """Writes the losses of every step, of every rank to a file of its own."""

    def before_train(self, runner: Runner) -> None:
        self.losses: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append({k: float(v) for k, v in outputs.items() if 'loss' in k})

    def after_train(self, runner: Runner) -> None:
        file = Path(runner.work_dir, f'losses_{runner.rank}.json')
        file.write_text(json.dumps(self.losses))


def train(rank: int, ranks: int, port: int, folder: Path, config: str) -> None:
    """One process of a run with ``ranks`` processes."""
    torch.set_num_threads(1)
    os.chdir(folder)
    Path(f'{rank}_of_{ranks}.py').write_text(config)
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=ranks, RANK=rank)
    os.environ |= {key: str(value) for key, value in place.items()} | {'LOCAL_RANK': str(rank)}
    launcher = 'pytorch' if ranks > 1 else 'none'
    words = ('--work-dir', f'run_{ranks}', '--launcher', launcher)
    assert main(['train', f'{rank}_of_{ranks}.py', *words]) == 0


def losses(folder: Path, config: str, ranks: int) -> list[dict[str, float]]:
    """Train in ``ranks`` processes; the losses of each step, averaged over them."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    arch = SMALL['SepViT']
    values = dict(root=ROOT, data=folder / 'data', channels=list(arch['dims']))
    values['arch'] = {**arch, '_delete_': True}
    text = (config + TRAINING).format(**values, batch=BATCH // ranks, steps=STEPS, side=SIDE)
    multiprocessing.spawn(train, (ranks, port, folder, text), nprocs=ranks)
    files = [folder / f'run_{ranks}/losses_{rank}.json' for rank in range(ranks)]
    steps = zip(*(json.loads(file.read_text()) for file in files), strict=True)
    return [{key: sum(rank[key] for rank in step) / ranks for key in step[0]} for step in steps]


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


@pytest.mark.parametrize(
    'config', [pytest.param(DETECTOR, id='retinanet'), pytest.param(SEGMENTOR, id='upernet')]
)
def test_losses_of_two_ranks_average_to_those_of_one_process(folder: Path, config: str) -> None:
    one, two = (losses(folder, config, ranks) for ranks in (1, 2))
    assert len(one) == len(two) == STEPS
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=0, abs=1e-4)
    assert abs(one[0]['loss'] - one[-1]['loss']) > 1e-2  # the updates do change the loss
