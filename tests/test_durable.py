"""Checkpoints, resuming and signals: what a training that was interrupted ends with."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import find_latest_checkpoint
from torch import Tensor, multiprocessing
from torch.utils.data import BatchSampler, DataLoader

from tests import kills
from tests.toy_training import (
    BATCH,
    DEFAULT,
    KINDS,
    LENGTH,
    PER_EPOCH,
    Samples,
    Signal,
    make_runner,
    settings,
)
from vitbackbones.checkpoint import CheckpointError, register_safe_globals
from vitbackbones.cli.main import main
from vitbackbones.engine.atomic import write_atomically
from vitbackbones.engine.data_order import Advance, shield_workers
from vitbackbones.engine.resume_point import newest_checkpoint
from vitbackbones.launch.training import add_hooks

every_kind = pytest.mark.parametrize('kind', KINDS)


class At(Hook):
    """Calls ``act`` at the end of a training iteration, counted from 1."""

    def __init__(self, iteration: int, act: Any) -> None:
        self.iteration, self.act = iteration, act

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            self.act()


class Record(Hook):
    def __init__(self) -> None:
        self.batches: list[tuple[int, list[str]]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append((batch_idx, [s.img_path for s in data_batch['data_samples']]))


def interrupt(
    work_dir: Path, iteration: int, kind: str = 'epochs', stage: str = 'train_iter', **options: Any
) -> Runner:
    """Train until a SIGTERM in ``iteration``."""
    hooks = [DEFAULT, Signal(iteration, signal.SIGTERM, stage)]
    runner = make_runner(work_dir, kind, custom_hooks=hooks, **options)
    assert train_until_exit(runner) == 128 + signal.SIGTERM
    return runner


def train_until_exit(runner: Runner) -> int:
    """Exit status; the exception is gone by then, and with it the data workers in its frames."""
    try:
        runner.train()
    except SystemExit as error:
        return error.code
    return 0


def saved(work_dir: Path) -> dict[str, Any]:
    return torch.load(find_latest_checkpoint(str(work_dir)), weights_only=True)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Final weights of trainings that nothing happened to, by kind."""
    folder = tmp_path_factory.mktemp('undisturbed')
    for kind in KINDS:
        make_runner(folder / kind, kind).train()
    return {kind: saved(folder / kind)['state_dict'] for kind in KINDS}


# -------------------------------------------------------------------------- writing files


def test_a_file_is_replaced_by_its_new_content(tmp_path: Path) -> None:
    for content in (b'old', b'new'):
        write_atomically(tmp_path / 'file', content)
        assert (tmp_path / 'file').read_bytes() == content
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failing_step_leaves_the_old_content_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / 'file', b'old')

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CheckpointError, match=r'file .* No space left on device; .* MB are free'):
        write_atomically(tmp_path / 'file', b'new')
    assert (tmp_path / 'file').read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_will_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def flush(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', flush)
    write_atomically(tmp_path / 'file', b'new')
    assert (tmp_path / 'file').read_bytes() == b'new'


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file.part').mkdir()
    with pytest.raises((CheckpointError, IsADirectoryError), match='file'):
        write_atomically(tmp_path / 'file', b'new')


def test_a_full_disk_ends_training_with_the_previous_checkpoint_intact(tmp_path: Path) -> None:
    def fill() -> None:
        size = (tmp_path / 'epoch_1.pth').stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    def train() -> None:
        hooks = [DEFAULT, At(PER_EPOCH + 1, fill)]
        runner = make_runner(tmp_path, custom_hooks=hooks, checkpoint=dict(max_keep_ckpts=1))
        with pytest.raises(CheckpointError, match=r'epoch_2\.pth .* cannot be written: File too'):
            runner.train()

    assert kills.run(train) == 0
    assert newest_checkpoint(tmp_path) == (tmp_path / 'epoch_1.pth', [])
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == ['epoch_1.pth']


# --------------------------------------------------------------------- the newest whole one


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('trained') / 'run'
    make_runner(folder, validate=False).train()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A work directory with checkpoints of three epochs, moved to another place."""
    return Path(shutil.copytree(trained, tmp_path / 'run'))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path: Path, **entries: Any) -> None:
    content = torch.load(path, weights_only=True)
    content |= entries
    torch.save({key: value for key, value in content.items() if value is not None}, path)


def flip(path: Path) -> None:
    """Change one bit of a weight, which no reader of torch notices."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)['state_dict']['stem.weight']
    content[content.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def spoil(path: Path) -> None:
    state = torch.load(path, weights_only=True)['state_dict']
    change(path, state_dict=state | {'head.bias': torch.tensor([torch.nan])})


def test_the_newest_checkpoint_is_the_one_that_is_named(run: Path) -> None:
    assert newest_checkpoint(run) == (run / 'epoch_3.pth', [])


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (halve, 'is truncated, damaged or no checkpoint'),
        (lambda path: path.write_bytes(b''), 'is empty'),
        (flip, 'is damaged: the checksum of .* is wrong'),
        (spoil, 'holds weights that are no numbers: head.bias'),
        (lambda path: change(path, optimizer=None), 'holds no optimizer'),
    ],
    ids=['truncated', 'empty', 'bit flipped', 'NaN', 'no optimizer'],
)
def test_what_is_not_whole_is_skipped_for_a_reason(damage: Any, reason: str, run: Path) -> None:
    damage(run / 'epoch_3.pth')
    newest, (line,) = newest_checkpoint(run)
    assert newest == run / 'epoch_2.pth'
    assert re.search(f'epoch_3.pth {reason}', line)


@pytest.mark.parametrize('name', [None, '', 'epoch_9.pth'], ids=['absent', 'empty', 'wrong'])
def test_a_name_that_leads_nowhere_is_not_needed(name: str | None, run: Path) -> None:
    if name is None:
        (run / 'last_checkpoint').unlink()
    else:
        (run / 'last_checkpoint').write_text(name)
    assert newest_checkpoint(run)[0] == run / 'epoch_3.pth'


def test_a_checkpoint_written_after_the_name_is_newer(run: Path) -> None:
    (run / 'last_checkpoint').write_text('epoch_2.pth')
    os.utime(run / 'epoch_2.pth', (1, 1))
    assert newest_checkpoint(run)[0] == run / 'epoch_3.pth'


def test_what_training_had_gone_back_from_is_older(run: Path) -> None:
    (run / 'last_checkpoint').write_text('epoch_2.pth')
    os.utime(run / 'epoch_3.pth', (1, 1))
    assert newest_checkpoint(run)[0] == run / 'epoch_2.pth'


def test_the_best_one_is_none_to_resume_from(run: Path) -> None:
    shutil.copy(run / 'epoch_3.pth', run / 'best_error_epoch_3.pth')
    for path in (*run.glob('epoch_*.pth'), run / 'last_checkpoint'):
        path.unlink()
    assert newest_checkpoint(run) == (None, [])


def test_without_any_whole_one_training_does_not_start_over(run: Path) -> None:
    for path in run.glob('*.pth'):
        halve(path)
    with pytest.raises(CheckpointError, match=r'no checkpoint .* can be resumed from') as caught:
        newest_checkpoint(run)
    assert str(caught.value).count('epoch_') == 3


def test_weights_of_other_origin_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({'state_dict': {'weight': torch.ones(1)}}, tmp_path / 'pretrained.pth')
    assert newest_checkpoint(tmp_path)[0] is None


def test_an_unfinished_file_is_reported_and_removed(run: Path) -> None:
    (run / 'epoch_4.pth.part').write_bytes(b'half')
    newest, (line,) = newest_checkpoint(run)
    assert newest == run / 'epoch_3.pth'
    assert 'epoch_4.pth.part: its writing was cut off' in line
    make_runner(run, resume=True).train()
    assert list(run.glob('*.part')) == []


# ------------------------------------------------------------------------------- resuming


@every_kind
@pytest.mark.parametrize('workers', [0, 2])
# During the first epoch, at its end, with the second batch of the next one, and at the very end.
@pytest.mark.parametrize('iteration', [3, PER_EPOCH, PER_EPOCH + 2, 3 * PER_EPOCH])
def test_an_interrupted_training_ends_with_the_same_weights(
    kind: str, workers: int, iteration: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    interrupt(tmp_path, iteration, kind, workers=workers)
    assert saved(tmp_path)['meta']['iter'] == iteration
    resumed = make_runner(tmp_path, kind, resume=True)
    resumed.train()
    assert resumed.iter == 3 * PER_EPOCH
    assert_same(resumed.model.state_dict(), undisturbed[kind])


@every_kind
def test_neither_workers_nor_validation_change_the_weights(
    kind: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    runner = make_runner(tmp_path, kind, workers=3, validate=False)
    assert_same(runner.train().state_dict(), undisturbed[kind])


@every_kind
def test_batches_go_on_with_their_numbers_and_none_is_loaded_twice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {name: Record() for name in ('undisturbed', 'resumed')}
    make_runner(tmp_path / 'a', kind, custom_hooks=[DEFAULT, records['undisturbed']]).train()
    interrupt(tmp_path / 'b', PER_EPOCH + 2, kind)
    loaded = []
    load = Samples.__getitem__
    monkeypatch.setattr(Samples, '__getitem__', lambda s, i: loaded.append(i) or load(s, i))
    hooks = [DEFAULT, records['resumed']]
    make_runner(tmp_path / 'b', kind, custom_hooks=hooks, resume=True, validate=False).train()
    assert records['resumed'].batches == records['undisturbed'].batches[PER_EPOCH + 2 :]
    # A loop over iterations has drawn a batch before it was resumed.
    assert len(loaded) <= BATCH * (2 * PER_EPOCH - 2)


def test_batches_that_were_trained_on_are_passed_over_or_skipped() -> None:
    one, other = (Advance(3, iter('abc')) for _ in range(2))
    assert [next(one) for _ in range(5)] == [None, None, None, 'a', 'b']
    other.skip_iter(3)  # as onedl-mmengine does
    assert list(other) == ['a', 'b', 'c']


def test_the_samples_of_an_epoch_are_augmented_differently_each_time(tmp_path: Path) -> None:
    seen: dict[str, set[float]] = {}

    class See(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            for sample, number in zip(
                data_batch['data_samples'], data_batch['number'], strict=True
            ):
                seen.setdefault(sample.img_path, set()).add(number)

    make_runner(tmp_path, workers=2, custom_hooks=[DEFAULT, See()]).train()
    assert [len(numbers) for numbers in seen.values()] == [3] * LENGTH
    augmentations = {
        n - p.sum().item() for i, p in enumerate(Samples().points) for n in seen[f'{i}.jpg']
    }
    assert len(augmentations) == 3 * LENGTH


def test_the_seed_of_a_run_without_one_is_kept(tmp_path: Path) -> None:
    records = [Record(), Record()]
    runner = make_runner(tmp_path, randomness=dict(seed=None), custom_hooks=[DEFAULT, records[0]])
    runner.train()
    first = str(tmp_path / 'epoch_1.pth')
    hooks = [DEFAULT, records[1]]
    again = make_runner(
        tmp_path, custom_hooks=hooks, randomness=dict(seed=None), resume=True, load_from=first
    )
    assert_same(again.train().state_dict(), runner.model.state_dict())
    assert records[1].batches == records[0].batches[PER_EPOCH:]


class Pairs(BatchSampler):
    """Remembers what it was drawn from before, as mmdet's sampler by aspect ratio does."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.kept: list[int] = []

    def __iter__(self) -> Any:
        for index in self.sampler:
            self.kept.insert(0, index)
            if len(self.kept) == 2 * self.batch_size:
                for _ in range(2):
                    yield [self.kept.pop() for _ in range(self.batch_size)]


@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
def test_a_batch_sampler_with_a_memory_starts_without_it(kind: str, tmp_path: Path) -> None:
    def loader(runner: Runner) -> Runner:
        runner._train_dataloader['batch_sampler'] = dict(type=Pairs)
        return runner

    runner = loader(make_runner(tmp_path / 'a', kind))
    want = runner.train().state_dict()
    hooks = [DEFAULT, Signal(8, signal.SIGTERM)]
    assert train_until_exit(loader(make_runner(tmp_path / 'b', kind, custom_hooks=hooks))) == 143
    assert_same(loader(make_runner(tmp_path / 'b', kind, resume=True)).train().state_dict(), want)


def test_an_epoch_of_another_length_starts_again(tmp_path: Path) -> None:
    interrupt(tmp_path, PER_EPOCH + 2)
    record = Record()
    data = Samples(LENGTH + 2 * BATCH)
    hooks = [DEFAULT, record]
    runner = make_runner(tmp_path, resume=True, dataset=data, custom_hooks=hooks)
    runner.train()
    assert [number for number, _ in record.batches] == [*range(PER_EPOCH + 2)] * 2
    assert runner.iter == 3 * (PER_EPOCH + 2)


def test_a_checkpoint_of_mmengine_alone_is_resumed_from(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = dict(by_epoch=False, interval=2)
    make_runner(tmp_path, custom_hooks=[], checkpoint=checkpoint | dict(save_last=False)).train()
    for name in ('iter_18.pth', 'iter_16.pth', 'iter_14.pth', 'iter_12.pth', 'iter_10.pth'):
        (tmp_path / name).unlink()
    record = Record()
    hooks = [DEFAULT, record]
    make_runner(tmp_path, custom_hooks=hooks, resume=True, log_level='WARNING').train()
    assert [number for number, _ in record.batches] == [2, 3, 4, 5, *range(PER_EPOCH)]
    assert 'random states of 0 processes' in capfd.readouterr().out


# --------------------------------------------------------------------------- being killed


@every_kind
def test_a_training_killed_in_every_step_of_saving_loses_nothing(
    kind: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def train() -> None:
        make_runner(tmp_path, kind, resume=True, checkpoint=dict(max_keep_ckpts=1)).train()

    # With half of the first checkpoint written, and before it gets its name; with half of its name
    # written, twice, so that two checkpoints are saved; before the deletion of the first one.
    for step, epochs in ((1, 0), (2, 0), (4, 1), (4, 2)):
        assert kills.run(train, kills.at_write(step)) == -signal.SIGKILL
        newest, _ = newest_checkpoint(tmp_path)
        done = newest and torch.load(newest, weights_only=True)['meta']['iter']
        assert done == (epochs * PER_EPOCH or None)
    assert kills.run(train) == 0
    assert_same(saved(tmp_path)['state_dict'], undisturbed[kind])
    assert len(list(tmp_path.glob('*.pth'))) == 1


def test_a_checkpoint_is_deleted_after_the_next_one_is_there(tmp_path: Path) -> None:
    def train() -> None:
        make_runner(tmp_path, resume=True, checkpoint=dict(max_keep_ckpts=1)).train()

    assert kills.run(train, kills.at_write(13)) == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth']
    assert kills.run(train) == 0
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_3.pth']


def test_the_best_checkpoint_is_deleted_after_the_next_best_is_there(tmp_path: Path) -> None:
    scores = iter([3.0, 2.0, 1.0])
    deleted: list[list[str]] = []
    remove = os.remove

    class Score(Hook):
        priority = 'HIGHEST'

        def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
            metrics['error'] = next(scores)

    def note(path: str) -> None:
        deleted.append(sorted(p.name for p in tmp_path.glob('best_*')))
        remove(path)

    checkpoint = dict(save_best='error', rule='less')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'remove', note)
        make_runner(tmp_path, custom_hooks=[DEFAULT, Score()], checkpoint=checkpoint).train()
    best = [f'best_error_epoch_{i}.pth' for i in (1, 2, 3)]
    assert deleted == [best[:2], best[1:]]
    assert [p.name for p in tmp_path.glob('best_*')] == best[2:]


@pytest.mark.parametrize('iteration', [2, PER_EPOCH + 2])
def test_a_training_killed_between_checkpoints_repeats_what_followed_the_last(
    iteration: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def train(*hooks: Hook) -> None:
        make_runner(tmp_path, workers=2, resume=True, custom_hooks=[DEFAULT, *hooks]).train()

    killing = Signal(iteration, signal.SIGKILL)
    assert kills.run(lambda: train(killing)) == -signal.SIGKILL
    assert kills.run(train) == 0
    assert_same(saved(tmp_path)['state_dict'], undisturbed['epochs'])


# -------------------------------------------------------------------------------- signals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_training_after_the_iteration(
    number: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    def train() -> None:
        hooks = [DEFAULT, At(8, lambda: os.killpg(0, number))]
        make_runner(tmp_path, workers=2, custom_hooks=hooks).train()

    assert kills.run(train) == 128 + number
    assert newest_checkpoint(tmp_path)[0] == tmp_path / 'interrupted.pth'
    resumed = make_runner(tmp_path, resume=True)
    assert_same(resumed.train().state_dict(), undisturbed['epochs'])


class Alarm(Samples):
    """Signals all processes while the training waits for its first batch."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not self.bad:
            self.bad = {-1: 0.0}  # once
            os.killpg(0, signal.SIGTERM)
        return super().__getitem__(i)


def test_a_signal_to_all_processes_leaves_the_awaited_batch_to_come(tmp_path: Path) -> None:
    def train() -> None:
        make_runner(tmp_path, workers=1, dataset=Alarm(), validate=False).train()

    assert kills.run(train) == 128 + signal.SIGTERM
    assert saved(tmp_path)['meta']['iter'] == 1


def test_workers_end_when_their_parent_asks_and_for_nobody_else() -> None:
    loader = DataLoader(Samples(), batch_size=1, num_workers=1, collate_fn=pseudo_collate)
    shield_workers(loader)
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for name in ('INT', 'TERM'):
        subprocess.run(['kill', f'-{name}', str(worker.pid)], check=True)
    assert len(list(batches)) == LENGTH - 1
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join()
    assert worker.exitcode == 0


def test_a_second_signal_ends_training_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)  # returns when it has been handled
        signal.raise_signal(signal.SIGINT)

    runner = make_runner(tmp_path, custom_hooks=[DEFAULT, At(2, twice)])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # test workers ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back_after_training(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    make_runner(tmp_path / 'a').train()
    interrupt(tmp_path / 'b', 3)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


class Validated(Hook):
    def __init__(self) -> None:
        self.at: list[int] = []

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        self.at.append(runner.iter)


@every_kind
@pytest.mark.parametrize('epoch', [1, 3])
def test_a_validation_that_a_signal_ended_is_made_up_for(
    kind: str, epoch: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    interrupt(tmp_path, epoch * PER_EPOCH, kind, stage='val_iter')
    assert newest_checkpoint(tmp_path)[0] == tmp_path / 'interrupted.pth'
    validated = Validated()
    resumed = make_runner(tmp_path, kind, resume=True, custom_hooks=[DEFAULT, validated])
    assert_same(resumed.train().state_dict(), undisturbed[kind])
    assert validated.at == [i * PER_EPOCH for i in range(epoch, 4)]


def test_a_best_checkpoint_of_another_training_stays(tmp_path: Path) -> None:
    a, b = tmp_path / 'a', tmp_path / 'b'
    checkpoint = dict(save_best='error', rule='less')
    make_runner(a, checkpoint=checkpoint).train()
    (best,) = a.glob('best_*')
    # As a stranger may have written it: whatever comes next is better, and replaces this.
    hub = torch.load(a / 'epoch_2.pth', weights_only=True)['message_hub']
    hub['runtime_info'] |= dict(best_score=1e9, best_ckpt=str(best))
    b.mkdir()
    shutil.copy(a / 'epoch_2.pth', b)
    change(b / 'epoch_2.pth', message_hub=hub)
    make_runner(b, checkpoint=checkpoint, resume=True).train()
    assert best.exists()
    assert len(list(b.glob('best_*'))) == 1


def test_the_best_checkpoint_is_that_of_an_undisturbed_training(tmp_path: Path) -> None:
    checkpoint = dict(save_best='error', rule='less')
    make_runner(tmp_path / 'a', checkpoint=checkpoint).train()
    for epoch in (1, 2, 3):
        interrupt(
            tmp_path / 'b', epoch * PER_EPOCH, stage='val_iter', checkpoint=checkpoint, resume=True
        )
    make_runner(tmp_path / 'b', checkpoint=checkpoint, resume=True).train()
    (want,), (have,) = ((tmp_path / d).glob('best_*') for d in 'ab')
    assert have.name == want.name


@every_kind
def test_amid_an_epoch_nothing_is_validated_at_first(kind: str, tmp_path: Path) -> None:
    interrupt(tmp_path, PER_EPOCH + 2, kind)
    validated = Validated()
    make_runner(tmp_path, kind, resume=True, custom_hooks=[DEFAULT, validated]).train()
    assert validated.at == [2 * PER_EPOCH, 3 * PER_EPOCH]


def test_the_interrupted_checkpoint_is_deleted_when_the_next_one_is_there(tmp_path: Path) -> None:
    interrupt(tmp_path, 3)
    assert [p.name for p in tmp_path.glob('*.pth')] == ['interrupted.pth']
    interrupt(tmp_path, PER_EPOCH + 1, resume=True)
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'interrupted.pth']
    make_runner(tmp_path, resume=True).train()
    assert not (tmp_path / 'interrupted.pth').exists()


def test_gradients_that_wait_for_a_step_are_not_cut_off(tmp_path: Path) -> None:
    wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=3)
    want = make_runner(tmp_path / 'a', optim_wrapper=wrapper).train().state_dict()
    interrupt(tmp_path / 'b', 4, optim_wrapper=wrapper)
    assert saved(tmp_path / 'b')['meta']['iter'] == 6
    resumed = make_runner(tmp_path / 'b', optim_wrapper=wrapper, resume=True)
    assert_same(resumed.train().state_dict(), want)


# ------------------------------------------------------------------------------ processes


def _train_as_one_of_two(rank: int, port: int, folder: Path, stop: bool, resume: bool) -> None:
    torch.set_num_threads(1)
    place = dict(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=2, RANK=rank, LOCAL_RANK=rank
    )
    os.environ |= {key: str(value) for key, value in place.items()}
    torch.distributed.init_process_group('gloo')
    hooks = [DEFAULT, *([Signal(4, signal.SIGTERM)] if stop and rank == 1 else [])]
    runner = make_runner(
        folder,
        custom_hooks=hooks,
        resume=resume,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        randomness=dict(seed=7, diff_rank_seed=True),
    )
    code = train_until_exit(runner)
    Path(folder, f'{rank}.json').write_text(json.dumps([code, runner.iter]))


def test_a_signal_to_one_process_stops_all_and_each_goes_on_with_its_numbers(
    tmp_path: Path,
) -> None:
    def train(folder: str, stop: bool = False, resume: bool = False) -> list[list[int]]:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        (tmp_path / folder).mkdir(exist_ok=True)
        args = (port, tmp_path / folder, stop, resume)
        multiprocessing.start_processes(_train_as_one_of_two, args, nprocs=2, start_method='fork')
        return [json.loads((tmp_path / folder / f'{rank}.json').read_text()) for rank in (0, 1)]

    assert train('undisturbed') == [[0, 9]] * 2
    assert train('run', stop=True) == [[143, 3]] * 2  # the fourth is counted by the next run
    states = saved(tmp_path / 'run')['meta']['random_states']
    assert len(states) == 2
    assert not torch.equal(states[0]['numpy'][0], states[1]['numpy'][0])
    assert train('run', resume=True) == [[0, 9]] * 2
    assert_same(
        saved(tmp_path / 'run')['state_dict'], saved(tmp_path / 'undisturbed')['state_dict']
    )


# ----------------------------------------------------------------------- the command line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the toy's config, and the current one."""
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(folder: Path, **options: Any) -> None:
    """The toy's config, with none of our hooks unless ``options`` name them."""
    # mmengine shares the log of runs of one name that start in the same second.
    own = {'custom_hooks': [], 'experiment_name': folder.name, **options}
    Config(settings(**own)).dump(folder / 'config.py')


def command(*words: str) -> int:
    try:
        return main(['train', 'config.py', '--work-dir', 'run', *words])
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_the_signal_s_status_and_resumes(
    number: int, undisturbed: dict[str, Any], place: Path
) -> None:
    write_config(place, custom_hooks=[dict(type='ToySignal', iteration=8, number=int(number))])
    assert command() == 128 + number
    write_config(place)
    assert command('--resume') == 0
    assert_same(saved(place / 'run')['state_dict'], undisturbed['epochs'])


def test_the_config_in_a_checkpoint_is_not_run(place: Path) -> None:
    assert command() == 0
    meta = torch.load('run/epoch_2.pth', weights_only=True)['meta']
    change(place / 'run/epoch_2.pth', meta={**meta, 'config': "open('canary', 'w')"})
    assert command('--resume', 'run/epoch_2.pth') == 0
    assert not Path('canary').exists()


def test_the_command_says_what_it_skipped(
    undisturbed: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    halve(place / 'run/epoch_3.pth')
    (place / 'run/epoch_4.pth.part').touch()
    assert command('--resume') == 0
    errors = capfd.readouterr().err
    assert 'not resumed from run/epoch_4.pth.part: its writing was cut off' in errors
    assert 'not resumed from run/epoch_3.pth is truncated' in errors
    assert_same(saved(place / 'run')['state_dict'], undisturbed['epochs'])


def test_the_command_starts_again_where_nothing_was_saved(
    undisturbed: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert kills.run(command, kills.at_write(1)) == -signal.SIGKILL
    assert list(Path('run').glob('*.pth')) == []
    assert command('--resume') == 0
    assert 'no checkpoint in run to resume from' in capfd.readouterr().err
    assert_same(saved(place / 'run')['state_dict'], undisturbed['epochs'])


def test_a_config_that_resumes_by_itself_is_treated_alike(
    undisturbed: dict[str, Any], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    halve(place / 'run/epoch_3.pth')
    write_config(place, resume=True)
    assert command() == 0
    assert 'epoch_3.pth is truncated' in capfd.readouterr().err
    assert_same(saved(place / 'run')['state_dict'], undisturbed['epochs'])


def test_the_command_reports_a_full_disk(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fill() -> None:  # more than the log needs, and less than a checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, 25_000))

    write_config(place, log_level='ERROR')
    assert kills.run(lambda: sys.exit(command()), fill) == 2
    error = capfd.readouterr().err
    assert re.search(r'vitbackbones train: \S+epoch_1\.pth .*File too large.*make room', error)
    assert 'Traceback' not in error


def test_the_command_reports_lasting_nan(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = dict(type='ToySamples', bad=dict.fromkeys(range(LENGTH), float('nan')))
    Path('config.py').write_text(
        Path('config.py').read_text() + f"nan = float('nan')\ntrain_dataloader['dataset'] = {bad}\n"
    )
    assert command() == 2
    assert 'loss is nan (3 in a row): training ends' in capfd.readouterr().err


def test_hooks_are_added_to_those_of_the_config_once() -> None:
    names = ['vitbackbones.DurableHook', 'vitbackbones.NonFiniteHook', 'vitbackbones.ZeroLossHook']
    for hooks in (None, [], [dict(type='EMAHook')], [dict(type='NonFiniteHook', patience=2)]):
        cfg = Config(dict(custom_hooks=hooks))
        add_hooks(cfg)
        own = [hook['type'] for hook in hooks or []]
        added = [name for name in names if name.split('.')[1] not in own]
        assert [hook.type for hook in cfg.custom_hooks] == [*own, *added]


# ----------------------------------------------------------------------- what checkpoints hold


def test_checkpoints_are_read_by_processes_that_know_nothing_of_mmengine(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    runner.message_hub.update_info('best_score', np.float64(0.5))
    runner.train()
    torch.serialization.clear_safe_globals()
    try:
        content = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    finally:
        register_safe_globals()
    assert content['message_hub']['runtime_info']['best_score'] == 0.5


def test_curves_go_on_where_training_stopped(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    interrupt(tmp_path / 'parts', 8)
    resumed = make_runner(tmp_path / 'parts', resume=True)
    resumed.train()
    for name in ('train/loss', 'train/lr'):
        expected, found = (r.message_hub.get_scalar(name).data for r in (whole, resumed))
        assert [list(part) for part in found] == [list(part) for part in expected]


def test_checkpoints_of_a_resumed_training_hold_its_own_config(tmp_path: Path) -> None:
    make_runner(tmp_path, cfg=dict(note='first')).train()
    (tmp_path / 'epoch_3.pth').unlink()
    make_runner(tmp_path, cfg=dict(note='second'), resume=True).train()
    hub = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)['message_hub']
    assert hub['runtime_info']['cfg'] == "note = 'second'\n"


def test_averaged_weights_are_not_resumed_as_trained_ones(tmp_path: Path) -> None:
    averages = dict(type='EMAHook', momentum=0.1)
    make_runner(tmp_path, custom_hooks=[DEFAULT, averages]).train()
    file = tmp_path / 'epoch_2.pth'
    options = dict(load_from=str(file), resume=True)
    with pytest.raises(CheckpointError, match=r'epoch_2\.pth cannot be resumed without EMAHook'):
        make_runner(tmp_path / 'without', **options).train()
    resumed = make_runner(tmp_path / 'with', custom_hooks=[DEFAULT, averages], **options)
    trained = saved(tmp_path)['ema_state_dict']  # mmengine swaps the two
    found = resumed.train().state_dict()
    assert_same(found, {name: trained[f'module.{name}'] for name in found})
    make_runner(tmp_path / 'started', load_from=str(file)).train()


def test_averages_begin_where_a_training_without_them_is_resumed(tmp_path: Path) -> None:
    make_runner(tmp_path).train()
    options = dict(load_from=str(tmp_path / 'epoch_2.pth'), resume=True)
    averages = dict(type='EMAHook', momentum=0.1)
    resumed = make_runner(tmp_path / 'with', custom_hooks=[DEFAULT, averages], **options)
    assert_same(resumed.train().state_dict(), saved(tmp_path)['state_dict'])
