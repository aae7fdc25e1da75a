"""Whole trainings of the command line that are killed again and again: `-m endurance`, minutes."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from tests import kills
from tests.small import SMALL
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.engine.resume_point import newest_checkpoint
from vitbackbones.engine.saving import DurableCheckpointHook
from vitbackbones.engine.signals import StopHook
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]
KILLS, EPOCHS, PER_EPOCH = 25, 30, 6


def detector() -> Config:
    """RetinaNet with epochs, batches by aspect ratio and the best checkpoint kept."""
    cfg = load_config(str(ROOT / 'configs/detection/sepvit_retinanet.py'), demo=True)
    dims = list(SMALL['SepViT']['dims'])
    cfg.model.backbone.update(arch=SMALL['SepViT'], drop_path_rate=0.2)
    cfg.model.neck.update(in_channels=dims[1:], out_channels=16)
    cfg.model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS, val_interval=5)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP'
    )
    cfg.val_evaluator.update(classwise=False)
    return cfg


def segmentor() -> Config:
    """UPerNet with iterations and random scales, crops and dropout; one checkpoint kept."""
    cfg = load_config(str(ROOT / 'configs/segmentation/casvit_upernet.py'), demo=True)
    dims = list(SMALL['CASViT']['dims'])
    cfg.model.backbone.update(arch=SMALL['CASViT'], drop_path_rate=0.2)
    cfg.model.decode_head.update(in_channels=dims, channels=16)
    cfg.model.auxiliary_head.update(in_channels=dims[2], channels=16)
    length = EPOCHS * PER_EPOCH
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=length, val_interval=length // 6)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=PER_EPOCH, max_keep_ckpts=1
    )
    return cfg


def note_progress(folder: Path) -> None:
    """Note every finished iteration and every checkpoint that training believes saved."""
    write, end = DurableCheckpointHook._write, StopHook.after_train_iter

    def append(name: str, iteration: int) -> None:
        with (folder / name).open('a') as file:
            file.write(f'{iteration}\n')

    def noted_write(self: Any, runner: Runner, name: str, meta: Any, **options: Any) -> None:
        write(self, runner, name, meta, **options)
        append('saved', meta['iter'])

    def noted_end(self: Any, runner: Runner, *args: Any, **kwargs: Any) -> None:
        append('done', runner.iter + 1)
        end(self, runner, *args, **kwargs)

    DurableCheckpointHook._write, StopHook.after_train_iter = noted_write, noted_end


def children_time() -> float:
    """Seconds of processor time that ended processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def last(path: Path) -> int:
    return int(path.read_text().split()[-1]) if path.exists() else 0


@pytest.mark.endurance
@pytest.mark.parametrize('config', [detector, segmentor])
def test_a_training_killed_25_times_ends_as_one_that_was_left_alone(
    config: Callable[[], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo_data.generate(tmp_path / demo_data.OUT, train=4 * PER_EPOCH, val=2)
    cfg = config()
    cfg.randomness = ConfigDict(seed=1)
    cfg.log_level = 'WARNING'
    cfg.dump('config.py')

    def train(work_dir: str) -> None:
        output = os.open('output.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        sys.exit(main(['train', 'config.py', '--work-dir', work_dir, '--resume']))

    earlier = children_time()
    assert kills.run(lambda: train('undisturbed')) == 0, Path('output.txt').read_text()[-3000:]
    seconds = children_time() - earlier

    draw = random.Random(0)
    rows = []
    there = 0
    for number in range(KILLS):
        if number % 2:
            moment = draw.randint(1, 13)
            arm, label = kills.at_write(moment), f'write {moment}'
        else:
            moment = draw.uniform(0, seconds / 8)
            arm, label = kills.after(moment), f'{moment:.2f} s'

        def armed(arm: Callable[[], None] = arm) -> None:
            note_progress(tmp_path)
            arm()

        before = there
        assert kills.run(lambda: train('run'), armed) == -signal.SIGKILL, number
        newest, skipped = newest_checkpoint('run') if Path('run').exists() else (None, [])
        there = torch.load(newest, weights_only=True)['meta']['iter'] if newest else 0
        assert there >= max(before, last(tmp_path / 'saved'))
        rows.append(
            dict(
                moment=label,
                trained=last(tmp_path / 'done'),
                saved=there,
                unfinished=len(skipped),
            )
        )
    note = functools.partial(note_progress, tmp_path)
    assert kills.run(lambda: train('run'), note) == 0, Path('output.txt').read_text()[-3000:]

    contents = []
    for work_dir in ('undisturbed', 'run'):
        newest, skipped = newest_checkpoint(work_dir)
        assert skipped == []
        contents.append(torch.load(newest, weights_only=True))
    want, have = (content['state_dict'] for content in contents)
    difference = max((have[name] - value).abs().max().item() for name, value in want.items())
    report = dict(
        config=config.__name__,
        seconds=round(seconds, 1),
        kills=rows,
        repeated=len((tmp_path / 'done').read_text().split()) - EPOCHS * PER_EPOCH,
        iterations=contents[1]['meta']['iter'],
        difference=difference,
        files=[sorted(p.name for p in Path(d).glob('*.pth*')) for d in ('undisturbed', 'run')],
    )
    print(json.dumps(report, indent=1))
    assert contents[0]['meta']['iter'] == contents[1]['meta']['iter'] == EPOCHS * PER_EPOCH
    assert difference <= 1e-6
    assert len(list(Path('run').glob('[ei]*.pth'))) == len(
        list(Path('undisturbed').glob('[ei]*.pth'))
    )
