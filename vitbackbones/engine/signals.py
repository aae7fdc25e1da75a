"""Ending a training on request: after the iteration, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from .data_order import end_workers
from .saving import DurableCheckpointHook

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopHook(Hook):
    """On SIGINT or SIGTERM ends the iteration, saves and exits with 128 + the signal's number.

    The exit is a ``SystemExit``. A second signal does what it does without this hook. In a
    distributed run a signal to one process ends all of them after the same iteration.
    """

    priority = 'LOWEST'  # a checkpoint has what the other hooks did in the iteration

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if _accumulates(runner):
            return  # gradients are in no checkpoint
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if not is_distributed():  # processes may validate on different numbers of batches
            self._stop_if_asked(runner, runner.iter)

    def after_val(self, runner: Runner) -> None:
        self._stop_if_asked(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        end_workers(runner.train_loop)
        number = self._asked()
        self._disarm()
        if number:  # all is trained and saved
            raise SystemExit(128 + number)

    def _stop_if_asked(self, runner: Runner, iteration: int) -> None:
        number = self._asked()
        if not number:
            return
        self._disarm()
        name = signal.Signals(number).name
        saving = [hook for hook in runner.hooks if isinstance(hook, DurableCheckpointHook)]
        for hook in saving:
            path = hook.save_interrupted(runner, iteration)
            runner.logger.info(
                f'{name}: stopped after {iteration} iterations; --resume goes on from {path}'
            )
        if not saving:
            runner.logger.warning(f'{name}: stopped; without a CheckpointHook nothing was saved')
        end_workers(runner.train_loop)
        raise SystemExit(128 + number)

    def _asked(self) -> int:
        """The signal that any of the processes has received, or 0."""
        if not self._previous or not is_distributed():
            return self._received
        number = torch.tensor(self._received)
        all_reduce(number, 'max')
        return int(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        for other in SIGNALS:
            signal.signal(other, self._previous[other])
        # Neither print nor a logger: the signal may have come while they were at work.
        message = f'{signal.Signals(number).name}: stopping after this iteration, or at once\n'
        os.write(2, message.encode())

    def _disarm(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _accumulates(runner: Runner) -> bool:
    """Whether gradients wait for a step of the optimizer in one of the next iterations."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return not all(w.should_update() for w in wrappers)
