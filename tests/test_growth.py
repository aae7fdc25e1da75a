"""Nothing grows with use: memory, caches, file handles, threads.

In every run of the tests few passes and a short training; `pytest -m endurance tests/test_growth.py
-s` makes thousands of each, in processes of their own, and prints what it measured.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from tests import toy_training
from tests.small import SMALL
from tests.test_endurance import detector
from vitbackbones.backbones.base import Backbone
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.layers import attention
from vitbackbones.layers.attention import BIAS_CACHE_ENTRIES
from vitbackbones.layers.door import CACHE_ENTRIES

MOST_GROWTH = 50.0  # MB
WARM_UP = 2  # passes over all shapes
BACKBONES = Backbone.registered()
every_backbone = pytest.mark.parametrize('name', BACKBONES)


def resident() -> float:
    """Megabytes of memory that this process holds, after what is garbage has been collected."""
    gc.collect()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def handles() -> int:
    return len(os.listdir('/proc/self/fd'))


def threads() -> int:
    return len(os.listdir('/proc/self/task'))


def tensors() -> tuple[int, int]:
    """How many tensors there are, and their elements."""
    # By type: isinstance would wake whatever lazy objects other packages have left behind.
    found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    return len(found), sum(x.numel() for x in found)


def caches(net: Backbone) -> Iterator[tuple[str, int, float]]:
    """Name, length and largest length of everything that layers and backbones keep."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith(('vitbackbones.layers', 'vitbackbones.backbones')):
            for key, value in vars(module).items():
                if hasattr(value, 'cache_info'):
                    info = value.cache_info()
                    most = math.inf if info.maxsize is None else info.maxsize
                    yield f'{name}.{key}', info.currsize, most
                elif isinstance(value, (dict, list, set)) and not key.startswith('__'):
                    yield f'{name}.{key}', len(value), LENGTHS.setdefault((name, key), len(value))
    own = vars(nn.Module())
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, (dict, list, set)) and key not in own:
                yield f'{name}.{key}', len(value), 0
    for name, parameter in net.named_parameters():
        yield f'biases.{name}', len(attention._cache[parameter]), BIAS_CACHE_ENTRIES


#: Lengths of the tables of modules when they were first seen.
LENGTHS: dict[tuple[str, str], int] = {}


@torch.no_grad()
def use(name: str, shapes: int, passes: int) -> dict[str, Any]:
    """What there is after two passes over all shapes, and what after some more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {'window_size': (7, 7, 14, 7)} if name == 'GCViT' else {}
    net = BACKBONES[name](SMALL[name], **options).eval()
    if name == 'SuperViT':
        net.operating_point = dict(keep_rate=0.7)
    draw = random.Random(0)
    sides: set[tuple[int, int]] = set()
    while len(sides) < shapes:
        sides.add((draw.randint(64, 320), draw.randint(64, 320)))
    images = [torch.randn(1, 3, *side) for side in sorted(sides)]
    draw.shuffle(images)
    measured = []
    fullest: dict[str, int] = {}
    gc.collect()  # what earlier tests have left in cycles
    start = time.process_time()
    for number in range(WARM_UP + passes):
        for x in images:
            maps = net(x)
            for cache, length, most in caches(net):
                fullest[cache] = max(length, fullest.get(cache, 0))
                assert length <= most, f'{cache} holds {length}'
        if number == 0:
            first = [y.clone() for y in maps]
        if number >= WARM_UP - 1:
            measured.append((tensors(), handles(), threads(), resident()))
    assert all(torch.equal(*pair) for pair in zip(maps, first, strict=True))
    found, files, tasks, memory = zip(*measured, strict=True)
    return dict(
        backbone=name,
        shapes=shapes,
        passes=shapes * passes,
        tensors=found,
        handles=files,
        threads=tasks,
        megabytes=memory,
        growth=max(memory) - memory[0],
        caches={k: v for k, v in fullest.items() if '.backbones.' not in k},
        seconds=round(time.process_time() - start),
    )


def assert_nothing_grew(found: dict[str, Any]) -> None:
    for what in ('tensors', 'handles', 'threads'):
        assert len(set(found[what])) == 1, f'{what}: {found[what]}'
    assert found['growth'] < MOST_GROWTH, found['megabytes']


@functools.cache
def few_passes(name: str) -> dict[str, Any]:
    return use(name, shapes=6, passes=1)


@every_backbone
def test_nothing_grows_over_passes_of_different_shapes(name: str) -> None:
    assert_nothing_grew(few_passes(name))


def test_the_caches_are_found() -> None:
    """Those that are known of; several shapes fill both."""
    windows = few_passes('SepViT')['caches']['vitbackbones.layers.door._cached']
    assert windows == CACHE_ENTRIES
    biases = few_passes('GCViT')['caches']
    assert max(length for name, length in biases.items() if name.startswith('biases.')) > 1


def in_a_fresh_process(call: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(call, *args).result()


@pytest.mark.endurance
@every_backbone
def test_nothing_grows_over_3000_passes_of_300_shapes(name: str) -> None:
    found = in_a_fresh_process(use, name, 300, 10)
    found['megabytes'] = [round(value, 1) for value in found['megabytes']]
    print(json.dumps(found))
    assert_nothing_grew(found)


# ----------------------------------------------------------------------------------- training


@HOOKS.register_module('GrowthMeasured')
class Measure(Hook):
    """Measures after iterations, into a file in the work directory."""

    priority = 'VERY_LOW'

    def __init__(self, interval: int, start: int) -> None:
        self.interval, self.start = interval, start

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        done = runner.iter + 1
        if done >= self.start and done % self.interval == 0:
            with Path(runner.work_dir, 'measured.txt').open('a') as file:
                file.write(f'{done} {handles()} {threads()} {tensors()[0]} {resident():.1f}\n')


def measured(folder: Path) -> dict[str, list[float]]:
    rows = [line.split() for line in (folder / 'measured.txt').read_text().splitlines()]
    names = ('iterations', 'handles', 'threads', 'tensors', 'megabytes')
    return {n: list(map(float, c)) for n, c in zip(names, zip(*rows, strict=True), strict=True)}


def assert_training_did_not_grow(found: dict[str, list[float]]) -> None:
    for what in ('handles', 'threads', 'tensors'):
        assert len(set(found[what])) == 1, f'{what}: {found[what]}'
    assert max(found['megabytes']) - found['megabytes'][0] < MOST_GROWTH, found['megabytes']


def test_nothing_grows_in_a_training(tmp_path: Path) -> None:
    hook = dict(type='GrowthMeasured', interval=4, start=toy_training.PER_EPOCH + 1)
    hooks = [toy_training.DEFAULT, hook]
    toy_training.make_runner(tmp_path, custom_hooks=hooks, validate=False).train()
    found = measured(tmp_path)
    assert found['iterations'] == [8, 12, 16]
    assert_training_did_not_grow(found)


def train(iterations: int, interval: int) -> None:
    """In the current folder, the detector on demo images; validated and saved now and then."""
    torch.set_num_threads(1)
    demo_data.generate(Path(demo_data.OUT), train=24, val=2)
    cfg = detector()
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=200)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=2
    )
    cfg.custom_hooks = [
        *cfg.get('custom_hooks', []),
        # After the first validation, whose worker stays.
        dict(type='mmengine.GrowthMeasured', interval=interval, start=201),
    ]
    cfg.randomness = ConfigDict(seed=1)
    cfg.log_level = 'WARNING'
    cfg.dump('config.py')
    status = main(['train', 'config.py', '--work-dir', 'run'])
    assert not status, status


@pytest.mark.endurance
def test_nothing_grows_in_a_training_of_1000_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    in_a_fresh_process(train, 1000, 40)
    found = measured(tmp_path / 'run')
    print(json.dumps({**found, 'wall seconds': round(time.monotonic() - start)}))
    assert found['iterations'][-1] == 1000
    assert_training_did_not_grow(found)
