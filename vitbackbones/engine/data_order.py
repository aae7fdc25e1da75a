"""Training data as a function of the position in the training.

mmengine's loop over epochs resumes with the epoch's first batch, and its loop over iterations loads
everything that was trained on, to throw it away. Here those batches are counted off, not loaded.
What workers have loaded ahead does not matter: the position is the loop's number of iterations.
Before every sample the random generators are seeded from the position, so that it is augmented
alike whichever process loads it, and however many there are.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader

from . import mmengine_compat as compat
from . import random_states


@dataclass(frozen=True)
class Batch:
    """Indices of samples; whoever loads them one by one has the generators seeded for each."""

    indices: tuple[Any, ...]
    position: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        state = random_states.take()  # without workers the model draws from these, too
        try:
            for place, index in enumerate(self.indices):
                random_states.seed(*self.position, place)
                yield index
        finally:
            random_states.restore(state)


class Batches:
    """The batch sampler of a training loop, from the loop's position on.

    For a loop over epochs it is one epoch long, for one over iterations endless: a sampler that
    comes to its end starts again, and the workers never notice.

    Args:
        sampler: batch sampler, not yet drawn from.
        loop: mmengine's, over epochs or iterations, or one derived from it.
        seed: of the run, alike in all its processes.
    """

    def __init__(self, sampler: Any, loop: Any, seed: int) -> None:
        self._inner = sampler
        self._loop = loop
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        if name == '_inner':  # not set yet, while it is copied
            raise AttributeError(name)
        return getattr(self._inner, name)  # batch_size, sampler, ... are what they were

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Batch]:
        epochs = itertools.count() if is_endless(self._loop) else [self._loop.epoch]
        trained = iterations_into_epoch(self._loop)
        for epoch in epochs:
            sampler: Any
            for sampler in (self._inner, getattr(self._inner, 'sampler', None)):
                if hasattr(sampler, 'set_epoch'):
                    sampler.set_epoch(epoch)
            number = -1
            for number, indices in enumerate(self._inner):
                if trained:
                    trained -= 1
                else:
                    yield Batch(tuple(indices), (self._seed, get_rank(), epoch, number))
            if number < 0:  # an empty dataset would be looked through forever
                return


class Advance:
    """Batches for a loop that first passes over those it has trained on, ``trained`` of them.

    mmengine takes them one by one, onedl-mmengine asks to skip them; here there is nothing to load.
    """

    def __init__(self, trained: int, batches: Iterator[Any]) -> None:
        self._batches = itertools.chain(itertools.repeat(None, trained), batches)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, number: int) -> None:
        for _ in range(number):
            next(self)


def is_endless(loop: Any) -> bool:
    return isinstance(loop, IterBasedTrainLoop)


def iterations_into_epoch(loop: Any) -> int:
    """How many batches of its epoch a loop has trained on; of a loop over iterations, of all."""
    return loop.iter if is_endless(loop) else loop.iter - loop.epoch * len(loop.dataloader)


def can_follow(runner: Runner) -> bool:
    """Whether :func:`follow_position` knows the runner's loop and data."""
    loop = runner.train_loop
    known = isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop))
    # Samplers are made anew from the config; without batches there is nothing to count.
    described = compat.train_dataloader_config(runner) is not None
    return known and described and bool(loop.dataloader.batch_sampler)


def follow_position(runner: Runner) -> None:
    """Let the data of the runner's training loop start at its position, after resuming."""
    loop, config = runner.train_loop, compat.train_dataloader_config(runner)
    assert config is not None
    loader: DataLoader = loop.dataloader
    seed = runner.seed - (get_rank() if compat.has_seed_per_rank(runner) else 0)
    sampler = config['sampler']
    if isinstance(sampler, dict):
        # Anew: resuming may have changed the seed, and an InfiniteSampler, once drawn from, does
        # not start again.
        sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=loader.dataset, seed=seed))
    batches: Any = config.get('batch_sampler')
    if isinstance(batches, dict):
        defaults = dict(sampler=sampler, batch_size=config.get('batch_size'))
        batches = DATA_SAMPLERS.build(batches, default_args=defaults)
    elif batches is None:
        batches = BatchSampler(sampler, config['batch_size'], loader.drop_last)
    # DataLoader refuses assignment, because an iterator would not notice; here there is none yet,
    # or it is thrown away.
    vars(loader)['batch_sampler'] = Batches(batches, loop, seed)
    loader._iterator = None
    if is_endless(loop):
        loop.dataloader_iterator = Advance(loop.iter, iter(loader))
    else:
        first = iterations_into_epoch(loop)
        run_iter = loop.run_iter
        vars(loop)['run_iter'] = lambda idx, data_batch: run_iter(idx + first, data_batch)


def end_epoch(loop: Any) -> None:
    """The epochs after the first one start with batch 0."""
    vars(loop).pop('run_iter', None)


def end_workers(loop: Any) -> None:
    """End the workers of an endless loop now: left to the garbage collector, they hang for 5 s."""
    if is_endless(loop):
        loop.dataloader_iterator = iter(())


# ---------------------------------------------------------------------------------- workers


def shield_workers(loader: DataLoader) -> None:
    """Let workers that are started from now on outlive a signal to all processes of the run."""
    loader.worker_init_fn = functools.partial(_start_worker, loader.worker_init_fn)


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    # Ctrl-C and schedulers signal all processes, but the iteration that is to end needs its data.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # no handler knows the sender
    threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker)


def _end_for(parent: int) -> None:
    """End this process when ``parent``, and nobody else, asks for it."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
