"""Several processes: ranks that die, other numbers of them, and the same weights every time.

Losses and weights next to those of one process are in test_ddp.py.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import find_latest_checkpoint
from torch.utils.data import DataLoader, Dataset

from tests.toy_training import BATCH, ENDS, EPOCHS, KINDS, PER_EPOCH, make_runner, settings
from vitbackbones.checkpoint import CheckpointError
from vitbackbones.cli.main import main
from vitbackbones.engine import ranks
from vitbackbones.engine.ranks import linked_ranks
from vitbackbones.errors import UserError
from vitbackbones.launch.device import let_processes_meet

ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds until a process counts as hanging, on a machine that others load
Ends = list[tuple[int | None, str]]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def launch(number: int, body: Callable[[int], Any], folder: Path) -> Ends:
    """Exit status and standard error of processes that nobody but one another looks after."""
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=number)

    def start(rank: int) -> None:
        os.setsid()
        sys.stderr = (folder / f'{rank}.err').open('w')
        os.dup2(sys.stderr.fileno(), 2)
        faulthandler.dump_traceback_later(LIMIT - 2)  # whoever hangs says where
        os.chdir(folder)
        torch.set_num_threads(1)
        here = place | dict(RANK=rank, LOCAL_RANK=rank)
        os.environ |= {key: str(value) for key, value in here.items()}
        sys.exit(body(rank))

    processes = [get_context('fork').Process(target=start, args=(i,)) for i in range(number)]
    for process in processes:
        process.start()
    waiting = [os.pidfd_open(process.pid) for process in processes]
    ended: list[float] = []
    try:
        # Not join, which would wait for processes that they have forked.
        while waiting and (done := wait(waiting, LIMIT)):
            ended += [time.monotonic()] * len(done)
            waiting = [process for process in waiting if process not in done]
        stacks = [(folder / f'{rank}.err').read_text() for rank in range(number)]
        assert ended, f'nobody ended, not even who was to die: {stacks}'
        print(f'the last process ended {ended[-1] - ended[0]:.1f} s after the first')
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    errors = [(folder / f'{i}.err').read_text() for i in range(number)]
    return [(process.exitcode, text) for process, text in zip(processes, errors, strict=True)]


@pytest.fixture(scope='module', autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a training imports on its way is imported once, not by every process."""
    make_runner(tmp_path_factory.mktemp('warm') / 'run').train()


def train(number: int, folder: Path, *words: str, name: str = 'config.py') -> Ends:
    """Run the command line in ``number`` processes."""
    launcher = ('--launcher', 'pytorch') if number > 1 else ()
    line = ['train', name, '--work-dir', 'run', *launcher, *words]
    return launch(number, lambda rank: main(line), folder)


def write_config(folder: Path, *hooks: Any, kind: str = 'epochs', **options: Any) -> None:
    """The toy's config; processes of other parents import it by themselves."""
    folder.mkdir(exist_ok=True)
    own = dict(custom_hooks=list(hooks), experiment_name=folder.name)
    own['custom_imports'] = dict(imports=['tests.toy_training'])
    Config({**settings(kind, **options), **own}).dump(folder / 'config.py')


def sentence(ends: Ends, rank: int) -> str:
    """What the others said of a rank, which has to be the same."""
    found = []
    for other, (_, text) in enumerate(ends):
        if other != rank:
            (line,) = re.findall(
                rf'^vitbackbones: (rank .*); rank {other} .* ends, too$', text, re.M
            )
            found.append(line)
    assert len(set(found)) == 1, found
    return found[0]


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(find_latest_checkpoint(str(folder / 'run')), weights_only=True)


# ------------------------------------------------------------------------- ranks that die

ERRORS = {'exit': 'failed: SystemExit: 3', 'exception': 'failed: ValueError: image 7.jpg is odd'}
WITHOUT_A_WORD = 'died without a word: killed, out of memory or crashed'
CODES = {'killed': -signal.SIGKILL, 'exit without a word': 0, 'exit': 3, 'exception': 1}
deaths = pytest.mark.parametrize(
    ('how', 'rank', 'hang'),
    [
        ('killed', 2, False),
        ('exception', 0, True),
        *(
            pytest.param(how, rank, hang, marks=pytest.mark.endurance)
            for how in ENDS
            for rank in (0, 2)
            for hang in (False, True)
        ),
    ],
)


@deaths
def test_the_end_of_a_rank_ends_all_who_say_which(
    how: str, rank: int, hang: bool, tmp_path: Path
) -> None:
    write_config(tmp_path, dict(type='ToyEnd', rank=rank, how=how, hang=hang), workers=1)
    ends = train(3, tmp_path)
    others = [end for other, end in enumerate(ends) if other != rank]
    assert ends[rank][0] == CODES[how]
    assert [code for code, _ in others] == [1, 1]
    assert not any('Traceback' in text for _, text in others)
    host = re.escape(socket.gethostname())
    expected = re.escape(ERRORS.get(how, WITHOUT_A_WORD))
    assert re.fullmatch(rf'rank {rank} \(process \d+ on {host}\) {expected}', sentence(ends, rank))


@pytest.mark.parametrize(
    'how', ['killed', *(pytest.param(how, marks=pytest.mark.endurance) for how in list(ENDS)[1:])]
)
def test_torchrun_ends_and_the_rank_is_named(how: str, tmp_path: Path) -> None:
    write_config(tmp_path, dict(type='ToyEnd', rank=1, how=how))
    paths = dict(PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}', PYTHONPATH=str(ROOT))
    place = dict(MASTER_PORT=str(free_port()), OMP_NUM_THREADS='1')
    line = ['bash', str(ROOT / 'tools/dist_train.sh'), 'config.py', '2', '--work-dir', 'run']
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env=os.environ | paths | place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 1
    expected = re.escape(ERRORS.get(how, WITHOUT_A_WORD))
    assert re.search(rf'vitbackbones: rank 1 \(process .*\) {expected}; rank 0 ', done.stderr)


def test_a_process_that_a_dead_rank_has_started_does_not_hide_its_death(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        torch.distributed.init_process_group('gloo')
        with linked_ranks():
            if rank == 1:
                if not os.fork():
                    signal.pause()
                os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    ends = launch(2, body, tmp_path)
    assert [code for code, _ in ends] == [1, -signal.SIGKILL]
    assert WITHOUT_A_WORD in sentence(ends, 1)


@pytest.mark.parametrize('early', [0, 1])
def test_a_rank_that_is_done_earlier_is_not_missed(early: int, tmp_path: Path) -> None:
    fifo = tmp_path / 'fifo'
    os.mkfifo(fifo)

    def body(rank: int) -> None:
        torch.distributed.init_process_group('gloo')
        file = fifo.open('w' if rank == early else 'r')
        with linked_ranks():
            if rank != early:
                file.read()  # ends when the process of the other one has

    ends = launch(2, body, tmp_path)
    assert [code for code, _ in ends] == [0, 0]
    assert not any('ends, too' in text for _, text in ends)


def test_an_error_of_all_ranks_is_told_by_each_as_its_own(tmp_path: Path) -> None:
    write_config(tmp_path)
    nan = (
        "nan = float('nan')\ntrain_dataloader['dataset'].update(bad=dict.fromkeys(range(12), nan))"
    )
    config = tmp_path / 'config.py'
    config.write_text(f'{config.read_text()}{nan}\n')
    for code, text in train(2, tmp_path):
        assert code == 2
        assert 'loss is nan (3 in a row): training ends' in text


def test_a_signal_on_which_all_agree_is_no_death(tmp_path: Path) -> None:
    write_config(tmp_path, dict(type='ToySignal', iteration=2, number=int(signal.SIGTERM)))
    for code, text in train(2, tmp_path):
        assert code == 128 + signal.SIGTERM
        assert 'ends, too' not in text


def test_ranks_of_slurm_know_of_one_another_before_anything_is_checked(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
            del os.environ[name]
        os.environ |= dict(SLURM_PROCID=str(rank), SLURM_NTASKS='2', SLURM_LOCALID='0')
        os.environ['SLURM_NODELIST'] = 'localhost'
        torch.cuda.is_available = lambda: True
        torch.cuda.set_device = lambda number: None
        env = dict(dist_cfg=dict(backend='gloo'), mp_cfg=dict(mp_start_method='fork'))
        let_processes_meet(Config(dict(launcher='slurm', env_cfg=env, model=dict())))
        with linked_ranks():
            if rank == 1:
                raise UserError('no data on this machine')
            signal.pause()

    ends = launch(2, body, tmp_path)
    assert [code for code, _ in ends] == [1, 1]
    assert 'failed: UserError: no data on this machine' in sentence(ends, 1)


@pytest.mark.endurance
def test_a_suspended_rank_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, 'PATIENCE', 6)

    def body(rank: int) -> None:
        torch.distributed.init_process_group('gloo')
        with linked_ranks():
            if rank == 1:
                command = f'sleep {3 * ranks.PATIENCE}; kill -CONT {os.getpid()}'
                subprocess.Popen(['sh', '-c', command])
                os.kill(os.getpid(), signal.SIGSTOP)
            torch.distributed.barrier()

    assert [code for code, _ in launch(2, body, tmp_path)] == [0, 0]


class Meeting:
    """Two ranks of this process alone, which they cannot end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[int] = []
        self._rank = 0
        self._called, self._values = threading.Event(), []
        for name, replacement in dict(
            get_rank=lambda: self._rank,
            get_world_size=lambda: 2,
            broadcast_object_list=self._broadcast,
        ).items():
            monkeypatch.setattr(torch.distributed, name, replacement)
        monkeypatch.setattr(ranks.os, '_exit', self.ended.append)
        monkeypatch.setattr(ranks, 'GRACE', 0)
        monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
        # It waits for the other one.
        self._first = ThreadPoolExecutor(1).submit(ranks._Watch)
        assert self._called.wait(LIMIT)
        self.port = self._values[0][1]

    def join(self) -> tuple[Any, Any]:
        self._rank = 1
        second = ranks._Watch()
        return self._first.result(), second

    def _broadcast(self, values: list[Any]) -> None:
        self._values = self._values or list(values)
        values[:] = self._values
        self._called.set()


@pytest.mark.filterwarnings('error')
def test_strangers_are_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = Meeting(monkeypatch)
    for words in (b'["end", "all of you"]\n', b'x' * 5000, b'\n\n', b'\xff\n', b''):
        with socket.create_connection(('127.0.0.1', meeting.port)) as stranger:
            stranger.sendall(words)
    for rank in meeting.join():
        rank.leave()
    assert meeting.ended == []


def test_a_machine_that_does_not_answer_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = Meeting(monkeypatch).join()
    for (peer,) in (rank._peers for rank in both):
        idle, interval, count = (
            peer.socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, f'TCP_KEEP{name}'))
            for name in ('IDLE', 'INTVL', 'CNT')
        )
        assert peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + interval * count == ranks.PATIENCE
    for rank in both:
        rank.leave()
    assert ranks._reason(TimeoutError()).startswith(f'has been silent for {ranks.PATIENCE} s')


class Odd(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> None:
        raise ValueError('image 7.jpg is odd')


@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_is_one_line(workers: int) -> None:
    with pytest.raises(ValueError, match='is odd') as caught:
        next(iter(DataLoader(Odd(), num_workers=workers)))
    assert ranks._in_short(caught.value) == 'ValueError: image 7.jpg is odd'


# ------------------------------------------------------- resuming with another number

SAMPLES = 16  # so that no batch is smaller than the others


def batches(number: int) -> int:
    """In an epoch of each of so many processes."""
    return SAMPLES // BATCH // number


@HOOKS.register_module('ToySnapshot')
class Snapshot(Hook):
    """Writes down what a training starts with, in every rank."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        state = dict(
            state_dict=runner.model.state_dict(),
            optimizer=runner.optim_wrapper.state_dict(),
            param_schedulers=[each.state_dict() for each in runner.param_schedulers],
            at=(runner.epoch, runner.iter),
        )
        torch.save(state, Path(runner.work_dir, f'start_{runner.rank}.pth'))


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Path]:
    """Trainings of so many processes, interrupted in the middle of an epoch."""

    @functools.cache
    def interrupt(number: int, kind: str) -> Path:
        folder = tmp_path_factory.mktemp('interrupted') / f'{number}'
        iteration = batches(number) + 1
        hook = dict(type='ToySignal', iteration=iteration, number=int(signal.SIGTERM))
        write_config(folder, hook, kind=kind, dataset=dict(type='ToySamples', length=SAMPLES))
        assert [code for code, _ in train(number, folder)] == [128 + signal.SIGTERM] * number
        return folder

    return interrupt


@pytest.mark.parametrize(
    'kind', ['epochs', pytest.param('iterations', marks=pytest.mark.endurance)]
)
@pytest.mark.parametrize(('before', 'now'), [(1, 2), (2, 1), (2, 4)])
def test_another_number_of_processes_goes_on_with_weights_optimizer_and_schedule(
    before: int,
    now: int,
    kind: str,
    interrupted: Callable[[int, str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(interrupted(before, kind), tmp_path / 'again'))
    left = saved(folder)
    data = dict(type='ToySamples', length=SAMPLES)
    write_config(folder, dict(type='ToySnapshot'), kind=kind, dataset=data)
    assert [code for code, _ in train(now, folder, '--resume')] == [0] * now
    epoch, iteration = left['meta']['epoch'], left['meta']['iter']
    starts = [torch.load(folder / f'run/start_{rank}.pth') for rank in range(now)]
    for start in starts:
        weights = {key.removeprefix('module.'): v for key, v in start['state_dict'].items()}
        torch.testing.assert_close(weights, left['state_dict'], rtol=0, atol=0)
        torch.testing.assert_close(start['optimizer'], left['optimizer'], rtol=0, atol=0)
        assert start['param_schedulers'] == left['param_schedulers']
        # The epoch starts again: its batches are others now.
        again = (epoch, epoch * batches(now)) if kind == 'epochs' else (epoch, iteration)
        assert start['at'] == again
    said = capfd.readouterr().out
    assert f'the random states of {before} processes, and there are {now} now' in said
    if kind == 'epochs':
        lengths = f'had {batches(before)} batches and has {batches(now)} now'
        assert f'an epoch {lengths}: epoch 2 starts with its first one' in said
    iterations = EPOCHS * (batches(now) if kind == 'epochs' else PER_EPOCH)
    assert saved(folder)['meta']['iter'] == iterations


# ------------------------------------------------------------- disks that are not shared


def forget(run: Path) -> None:
    shutil.rmtree(run)


def fall_behind(run: Path) -> None:
    (run / 'epoch_3.pth').unlink()
    (run / 'last_checkpoint').unlink()  # names the file of the other machine


def train_apart(run: Path) -> None:
    path = run / 'epoch_3.pth'
    content = torch.load(path, weights_only=True)
    content['meta']['time'] = '20200101_000000'
    torch.save(content, path)


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    """Folders of two machines with a finished training each, in ``run``, by their ranks."""
    write_config(tmp_path / '0', validate=False, randomness=dict(seed=None))
    assert [code for code, _ in train(1, tmp_path / '0')] == [0]
    shutil.copytree(tmp_path / '0', tmp_path / '1')
    return tmp_path


FOUND = r'epoch_3\.pth \(iteration 18, saved \d+_\d+\)'
differences = pytest.mark.parametrize(
    ('differ', 'other'),
    [
        (forget, 'none'),
        (fall_behind, r'epoch_2\.pth \(iteration 12, .*\)'),
        (train_apart, r'epoch_3\.pth \(iteration 18, saved 20200101_000000\)'),
    ],
)


@pytest.mark.parametrize('place', [0, 1])
@differences
def test_processes_that_found_different_checkpoints_end_and_say_which(
    differ: Callable[[Path], None], other: str, place: int, machines: Path
) -> None:
    differ(machines / f'{place}/run')

    def body(rank: int) -> int:
        os.chdir(machines / str(rank))
        words = ['--work-dir', 'run', '--launcher', 'pytorch', '--resume']
        return main(['train', 'config.py', *words])

    for code, text in launch(2, body, machines):
        assert code == 2
        assert 'vitbackbones train: processes found different checkpoints' in text
        assert re.search(rf'\n  - rank {place}: {other}\n', text)
        assert re.search(rf'\n  - rank {1 - place}: {FOUND}\n', text)


@differences
def test_without_our_command_they_end_as_well(
    differ: Callable[[Path], None], other: str, machines: Path
) -> None:
    differ(machines / '1/run')

    def body(rank: int) -> None:
        torch.distributed.init_process_group('gloo')
        runner = make_runner(
            machines / f'{rank}/run',
            resume=True,
            launcher='pytorch',
            cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
        )
        with pytest.raises(CheckpointError, match=rf'rank 0: {FOUND}\n  - rank 1: {other}\n'):
            runner.train()

    assert [code for code, _ in launch(2, body, machines)] == [0, 0]


def test_copies_of_a_checkpoint_are_resumed_from(machines: Path) -> None:
    def body(rank: int) -> int:
        os.chdir(machines / str(rank))
        fall_behind(Path('run'))
        words = ['--work-dir', 'run', '--launcher', 'pytorch', '--resume']
        return main(['train', 'config.py', *words])

    assert [code for code, _ in launch(2, body, machines)] == [0, 0]


# ---------------------------------------------------------------------- the same every time


@pytest.mark.parametrize(
    ('kind', 'number'),
    [
        ('epochs', 2),
        *(pytest.param(k, n, marks=pytest.mark.endurance) for k in KINDS for n in (1, 2, 4)),
    ],
)
def test_a_seed_gives_the_same_weights_every_time(kind: str, number: int, tmp_path: Path) -> None:
    final = []
    for name in ('a', 'b'):
        randomness = dict(seed=0, deterministic=True, diff_rank_seed=True)
        data = dict(type='ToySamples', length=SAMPLES)
        options = dict(workers=2, validate=False, dataset=data, randomness=randomness)
        write_config(tmp_path / name, kind=kind, **options)
        assert [code for code, _ in train(number, tmp_path / name)] == [0] * number
        final.append(saved(tmp_path / name)['state_dict'])
    torch.testing.assert_close(*final, rtol=0, atol=0)
