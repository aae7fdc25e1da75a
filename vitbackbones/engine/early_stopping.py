"""Ending a training whose metric no longer gets better."""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict, cast

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from vitbackbones.errors import UserError
from vitbackbones.registry import HOOKS

from .data_order import is_endless

STATE = 'early_stopping'  # in mmengine's message hub, which checkpoints hold


class _State(TypedDict):
    """What has been counted.

    Attributes:
        best: value of the metric.
        at: when that was, in words.
        waited: validations since then.
        iteration: of the last validation that was counted.
    """

    best: float
    at: str
    waited: int
    iteration: int


# Not in mmengine's own registry, where the name is that of its hook.
@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Ends a training after ``patience`` validations in a row without a better metric.

    mmengine's hook of this name starts to count anew with ``--resume``, and takes less than 0.1
    more for no gain. Here the count is in the checkpoints: a training that was killed stops where
    it would have stopped. Of a metric of which more is better, validations do not count before it
    is above 0: from random weights nothing is found at first.

    ::

        custom_hooks = [dict(type='vitbackbones.EarlyStoppingHook')]

    Args:
        monitor: name of the metric; None for the one that ``save_best`` of CheckpointHook goes by,
            its first if there are several.
        rule: whether 'greater' or 'less' is better; None for that of CheckpointHook, or else by the
            name: less of a loss, more of all others.
        patience: validations.
        min_delta: what is better by no more than this counts for no gain.

    Raises:
        ValueError: ``patience`` is below 1, ``min_delta`` negative or ``rule`` another word.
    """

    priority = 'LOW'  # before CheckpointHook, whose checkpoint of the best has the count

    def __init__(
        self,
        monitor: str | None = None,
        rule: Literal['greater', 'less'] | None = None,
        patience: int = 5,
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError(f'EarlyStoppingHook: patience={patience} must be at least 1')
        if not min_delta >= 0:
            raise ValueError(f'EarlyStoppingHook: min_delta={min_delta} must be at least 0')
        if rule not in ('greater', 'less', None):
            raise ValueError(f"EarlyStoppingHook: rule={rule!r} must be 'greater' or 'less'")
        self.monitor, self.rule = monitor, rule
        self.patience, self.min_delta = patience, min_delta
        self._warned = False

    def before_train(self, runner: Runner) -> None:
        """Find the metric; stop again what had been stopped when its checkpoint was saved.

        Raises:
            UserError: nothing says which metric it is, or the training loop cannot be stopped.
        """
        if not hasattr(runner.train_loop, 'stop_training'):
            raise UserError(
                f'EarlyStoppingHook cannot stop {type(runner.train_loop).__name__}, which has no '
                'stop_training'
            )
        saving = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if self.monitor is None and not (saving and saving.save_best):
            raise UserError(
                'EarlyStoppingHook: name a metric with monitor=..., or with save_best=... of '
                'CheckpointHook'
            )
        if saving and saving.save_best:
            rules = dict(zip(saving.key_indicators, saving.rules, strict=True))
            if self.monitor is None and saving.key_indicators[0] != 'auto':
                self.monitor = saving.key_indicators[0]
            self.rule = self.rule or rules.get(self.monitor)
        state = self._state(runner)
        if state and state['waited'] >= self.patience:
            self._stop(runner, state)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Count; when it is enough, the training loop ends."""
        if not metrics:  # as those of COCO when nothing was detected yet
            return
        if self.monitor is None:  # save_best='auto' takes the first one, too
            self.monitor = next(iter(metrics))
        value = metrics.get(self.monitor)
        if value is None:
            if not self._warned:
                runner.logger.warning(
                    f'EarlyStoppingHook: there is no {self.monitor!r} among the metrics: '
                    f'{", ".join(metrics)}'
                )
            self._warned = True
            return
        state = self._state(runner)
        if state is None or self._is_better(float(value), state['best']):
            state = _State(best=float(value), at=_now(runner), waited=0, iteration=runner.iter)
        elif runner.iter != state['iteration']:  # else resumed, and validated once more
            begun = self._less or state['best'] > 0
            state |= {'waited': state['waited'] + begun, 'iteration': runner.iter}
        runner.message_hub.update_info(STATE, dict(state))
        if state['waited'] >= self.patience:
            self._stop(runner, state)

    def _is_better(self, value: float, best: float) -> bool:
        if math.isnan(best):
            return not math.isnan(value)
        return value < best - self.min_delta if self._less else value > best + self.min_delta

    @property
    def _less(self) -> bool:
        return self.rule == 'less' or (self.rule is None and 'loss' in str(self.monitor))

    def _stop(self, runner: Runner, state: _State) -> None:
        loop: Any = runner.train_loop
        loop.stop_training = True
        runner.logger.info(
            f'training stops early, after {_now(runner)}: {self.monitor} has not got better than '
            f'the {state["best"]:.4f} of {state["at"]} in {state["waited"]} validations'
        )

    def _state(self, runner: Runner) -> _State | None:
        found = runner.message_hub.runtime_info.get(STATE)
        return cast(_State, dict(found)) if found else None


def _now(runner: Runner) -> str:
    loop = runner.train_loop
    return f'iteration {runner.iter}' if is_endless(loop) else f'epoch {runner.epoch}'
