"""A training of milliseconds in which every random generator has a say in the final weights.

The data are augmented with numbers from python, numpy and torch, and so is what the model computes
in training and in validation.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset

import vitbackbones

LENGTH, BATCH, EPOCHS = 12, 2, 3
PER_EPOCH = LENGTH // BATCH
DEFAULT = dict(type='vitbackbones.DurableHook')
KINDS = ('epochs', 'iterations', 'iterations over epochs')


def draw() -> float:
    """A number that all three generators change."""
    return random.random() + np.random.rand() + torch.rand(()).item()


@DATASETS.register_module('ToySamples')
class Samples(Dataset):
    """Noisy points of a plane; ``bad`` maps an index to what stands in the place of its number."""

    def __init__(self, length: int = LENGTH, bad: dict[int, float] | None = None) -> None:
        self.points = torch.randn(length, 4, generator=torch.Generator().manual_seed(3))
        self.bad = bad or {}

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample = BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'))
        value = self.bad.get(i, draw() + self.points[i].sum().item())
        return dict(inputs=self.points[i] + 0.1 * draw(), number=value, data_samples=sample)


@MODELS.register_module('ToyModel')
class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Any, number: Any, data_samples: Any, mode: str = 'loss') -> Any:
        x = self.norm(self.stem(torch.stack(inputs)))  # (B, 8)
        x = self.head(nn.functional.dropout(x, 0.3) + 0.1 * draw()).squeeze(1)  # (B,)
        errors = (x - torch.tensor(number)).square()
        return dict(loss=errors.mean()) if mode == 'loss' else [e.item() for e in errors]


@METRICS.register_module('ToyError')
class Error(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(error=float(np.mean(results)))


@HOOKS.register_module('ToySignal')
class Signal(Hook):
    """Sends a signal to its process in an iteration of training or, after it, of validation."""

    def __init__(self, iteration: int, number: int, stage: str = 'train_iter') -> None:
        self.iteration, self.number, self.stage = iteration, number, stage

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.stage == 'train_iter' and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.stage == 'val_iter' and runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def _fail() -> None:
    raise ValueError('image 7.jpg is odd')


ENDS = {
    'killed': lambda: os.kill(os.getpid(), signal.SIGKILL),
    'exit without a word': lambda: os._exit(0),
    'exit': lambda: sys.exit(3),
    'exception': _fail,
}


@HOOKS.register_module('ToyEnd')
class End(Hook):
    """Ends one of several ranks in an iteration; with ``hang`` the others wait for it for ever.

    As in a collective of NCCL's: without it, gloo notices that a connection has ended.
    """

    def __init__(self, rank: int, how: str, iteration: int = 2, hang: bool = True) -> None:
        self.rank, self.how, self.iteration, self.hang = rank, how, iteration, hang

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration and runner.rank == self.rank:
            ENDS[self.how]()
        elif runner.iter + 1 == self.iteration and self.hang:
            threading.Event().wait()


def make_runner(work_dir: Path, *args: Any, **options: Any) -> Runner:
    """A runner with :func:`settings`."""
    own = dict(
        work_dir=str(work_dir),
        log_level='ERROR',
        experiment_name=f'{work_dir.parent.name}-{work_dir.name}-{random.random()}',
    )
    return Runner(**{**own, **settings(*args, **options)})


def settings(
    kind: str = 'epochs',
    *,
    workers: int = 0,
    checkpoint: dict[str, Any] | None = None,
    dataset: Dataset | dict[str, Any] | None = None,
    validate: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Three epochs that are validated and saved."""
    by_epoch = kind == 'epochs'
    infinite = kind == 'iterations'
    interval = 1 if by_epoch else PER_EPOCH
    length = dict(max_epochs=EPOCHS) if by_epoch else dict(max_iters=EPOCHS * PER_EPOCH)
    loop = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    loader: dict[str, Any] = dict(
        dataset=dataset or dict(type='ToySamples'), num_workers=workers, batch_size=BATCH
    )
    sampler = 'InfiniteSampler' if infinite else 'DefaultSampler'
    val: dict[str, Any] = dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    if validate:
        val['val_dataloader'] = {**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)}
        val['val_cfg'], val['val_evaluator'] = dict(type='ValLoop'), dict(type='ToyError')
    saving = dict(type='CheckpointHook', by_epoch=by_epoch, interval=interval)
    defaults: dict[str, Any] = dict(
        model=dict(type='ToyModel'),
        train_dataloader={**loader, 'sampler': dict(type=sampler, shuffle=True)},
        train_cfg=dict(type=loop, val_interval=interval, **length),
        **val,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, begin=0, end=15, by_epoch=False),
        default_hooks=dict(
            checkpoint=saving | (checkpoint or {}), logger=dict(type='LoggerHook', interval=1)
        ),
        custom_hooks=[DEFAULT],
        randomness=dict(seed=7),
        default_scope='mmengine',
    )
    return {**defaults, **options}


def weights(runner: Runner) -> dict[str, Tensor]:
    return runner.model.state_dict()


assert vitbackbones.registry.SCOPE == 'vitbackbones'  # imported for its hooks
