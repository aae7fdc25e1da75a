"""Training that survives being killed at any moment, and goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from vitbackbones.checkpoint import CheckpointError
from vitbackbones.registry import HOOKS, register

from . import mmengine_compat as compat
from .atomic import PART
from .data_order import (
    can_follow,
    end_epoch,
    follow_position,
    is_endless,
    iterations_into_epoch,
    shield_workers,
)
from .plain import log_from_plain, to_plain
from .random_states import Randomness, restore
from .resume_point import require_same_on_all_ranks, resume_point
from .saving import DurableCheckpointHook
from .signals import StopHook


@register(HOOKS)
class DurableHook(Hook):
    """Makes a training durable, whatever its loop: mmengine's two, or ours for operating points.

    - Checkpoints are written whole or not at all: :class:`DurableCheckpointHook` takes the place of
      mmengine's.
    - Resuming without a named file takes the newest whole checkpoint and says what it skipped.
    - It goes on with the next batch, in the same order, with the same random numbers in model and
      augmentation: the weights are those of a training that was never interrupted.
    - A validation that was due after the checkpoint's last iteration comes first.
    - Averaged weights (``EMAHook``) are not taken for trained ones: without the hook it stops.
    - Any process reads its checkpoints, as :mod:`vitbackbones.engine.plain` writes them.
    - SIGINT and SIGTERM end the training after the iteration, with a checkpoint: :class:`StopHook`.

    ::

        custom_hooks = [dict(type='vitbackbones.DurableHook')]  # the prefix imports it

    What a data pipeline remembers from sample to sample (``CachedMosaic``) is in no checkpoint.
    """

    priority = 'HIGHEST'  # the random numbers of an iteration start before other hooks'

    def __init__(self) -> None:
        self._randomness = Randomness()
        self._resumed: dict[str, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Prepare saving and resuming; does nothing where nothing is trained.

        Raises:
            CheckpointError: of the checkpoints to resume from, none is whole.
        """
        if not compat.trains(runner):
            return
        if compat.resumes(runner) and compat.loaded_file(runner) is None:
            compat.set_resume_file(runner, resume_point(runner.work_dir, runner.logger.warning))
        for hook in runner.hooks:
            if type(hook) is CheckpointHook:
                DurableCheckpointHook.adopt(hook, self._randomness)
        if not any(isinstance(hook, StopHook) for hook in runner.hooks):
            runner.register_hook(StopHook())
            runner.register_hook(ValidateAgainHook(self._randomness))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        for key in ('meta', 'message_hub'):
            checkpoint[key] = to_plain(checkpoint[key])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Prepare for mmengine what it resumes from.

        Raises:
            CheckpointError: the weights are averages that nothing here tells from trained ones.
        """
        if not compat.resumes(runner):
            return
        averaged = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if 'ema_state_dict' in checkpoint and not averaged:
            raise CheckpointError(
                f'{compat.loaded_file(runner)} cannot be resumed without EMAHook, which its '
                'training had: its weights are averages, and its optimizer belongs to others; put '
                'EMAHook back among the hooks, or start anew from the averages with load_from and '
                'no resuming'
            )
        checkpoint['meta'].pop('config', None)  # mmengine would run it, for a number of GPUs
        self._resumed = checkpoint['meta']
        hub = checkpoint.get('message_hub')
        if isinstance(hub, dict):
            hub['log_scalars'] = log_from_plain(hub.get('log_scalars', {}))
            # This run's config goes into its checkpoints, not that of the one it resumes.
            hub.get('runtime_info', {}).pop('cfg', None)

    def before_train(self, runner: Runner) -> None:
        """Take up data and random numbers where the resumed training stopped.

        Raises:
            CheckpointError: processes have resumed from different checkpoints.
        """
        require_same_on_all_ranks(compat.loaded_file(runner), self._resumed)
        if is_main_process():
            for part in Path(runner.work_dir).glob(f'*{PART}'):
                part.unlink()
        self._resume_random_states(runner)
        loop = runner.train_loop
        if not can_follow(runner):
            runner.logger.warning(
                f'{type(loop).__name__} on data that no config describes: resuming does not go on '
                'with the same data'
            )
            return
        if not is_endless(loop):
            self._fit_epoch(runner)
        shield_workers(loop.dataloader)
        if runner.val_loop is not None:
            shield_workers(runner.val_loop.dataloader)
        follow_position(runner)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._randomness.release()

    def after_train_epoch(self, runner: Runner) -> None:
        end_epoch(runner.train_loop)
        self._randomness.hold()

    def before_val(self, runner: Runner) -> None:
        self._randomness.hold()

    def _resume_random_states(self, runner: Runner) -> None:
        states = self._resumed.get('random_states', [])
        if len(states) == runner.world_size:
            self._randomness.hold(states[runner.rank])
        elif self._resumed:
            runner.logger.warning(
                f'the checkpoint holds the random states of {len(states)} processes, and there are '
                f'{runner.world_size} now: their random numbers start from the seed'
            )

    def _fit_epoch(self, runner: Runner) -> None:
        """Start an epoch again that had another number of batches, for other data or processes."""
        loop = runner.train_loop
        now = len(loop.dataloader)
        before = self._resumed.get('batches_per_epoch', now)
        if before != now or not 0 <= iterations_into_epoch(loop) <= now:
            runner.logger.warning(
                f'an epoch had {before} batches and has {now} now: epoch {loop.epoch + 1} starts '
                'with its first one'
            )
            compat.set_iteration(loop, loop.epoch * now)


class ValidateAgainHook(Hook):
    """Validates before a resumed training goes on, where the interrupted one was to.

    Whether it got that far no checkpoint tells: they are saved before. Without this the best
    checkpoint, or the metrics after the last iteration, could be missing.
    """

    priority = 'LOWEST'  # saves the best checkpoint, and may be stopped

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not compat.resumes(runner) or runner.val_loop is None or not can_follow(runner):
            return
        done, end = (
            (loop.iter, loop.max_iters) if is_endless(loop) else (loop.epoch, loop.max_epochs)
        )
        in_epoch = not is_endless(loop) and iterations_into_epoch(loop)
        if not done or in_epoch:
            return
        compat.decide_val_interval(loop)
        if done >= loop.val_begin and (done % loop.val_interval == 0 or done == end):
            restore(self._randomness.current())
            runner.val_loop.run()
