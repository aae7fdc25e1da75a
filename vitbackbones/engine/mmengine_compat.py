"""The only file that touches what mmengine keeps private; what it relies on is said at each place.

All of it was read in mmengine 0.10.6 and 0.10.7 and in onedl-mmengine 0.10.12, where it is alike.
Whoever supports another version has to read these places there, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import BaseLoop, Runner

# -------------------------------------------------------------------------------- the Runner


def trains(runner: Runner) -> bool:
    """Whether the Runner is in ``train()``, which builds the training loop first.

    ``_train_loop`` is a config before, and None for a Runner without ``train_cfg``; reading the
    public ``train_loop`` would build it.
    """
    return isinstance(runner._train_loop, BaseLoop)


def resumes(runner: Runner) -> bool:
    """Whether the Runner goes on with a training; mmengine asks ``_resume`` when it loads."""
    return bool(runner._resume)


def loaded_file(runner: Runner) -> str | None:
    """The file that the Runner resumes or starts from, if one is named: ``_load_from``."""
    return runner._load_from


def set_resume_file(runner: Runner, path: str | None) -> None:
    """Let the Runner resume from a file, or from none; to be called in ``before_run``.

    ``train()`` calls that hook, and reads ``_resume`` and ``_load_from`` afterwards.
    """
    runner._resume, runner._load_from = path is not None, path


def train_dataloader_config(runner: Runner) -> Mapping[str, Any] | None:
    """The config of the training data; None if the Runner was given a loader that is built.

    ``_train_dataloader`` stays what it was given; the Runner's ``cfg`` may be anything.
    """
    config = runner._train_dataloader
    return config if isinstance(config, dict) else None


def has_seed_per_rank(runner: Runner) -> bool:
    """Whether each process adds its rank to the seed: ``_randomness_cfg``, always a dict."""
    return bool(runner._randomness_cfg.get('diff_rank_seed', False))


# ----------------------------------------------------------------------------------- loops


def set_iteration(loop: Any, iteration: int) -> None:
    """Set how many iterations a training loop has made; its ``iter`` can only be read."""
    loop._iter = iteration


def decide_val_interval(loop: Any) -> None:
    """Bring ``val_interval`` up to date, as the loop does after each epoch or iteration.

    Of ``dynamic_intervals`` it takes the one that holds where the loop is.
    """
    loop._decide_current_val_interval()


# --------------------------------------------------------------------- optimizer wrappers


def set_inner_count(optim_wrapper: OptimWrapper, count: int) -> None:
    """Set how many backward passes were made; ``inner_count`` can only be read.

    ``backward`` adds one, ``should_update`` and ``scale_loss`` read it.
    """
    optim_wrapper._inner_count = count


def has_fixed_loss_scale(optim_wrapper: AmpOptimWrapper) -> bool:
    """Whether losses are scaled by a number of the config that never changes.

    ``_scale_update_param`` is that number, and None where the scale adapts itself.
    """
    return optim_wrapper._scale_update_param is not None


# ----------------------------------------------------------------------------------- hooks


class OpenCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with its two ways to save as methods to be overridden.

    ``_save_checkpoint_with_step`` and ``_save_best_checkpoint`` are called for all that it saves,
    by epochs and by iterations, after validation and at the end.
    """

    def write_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Save after ``step`` epochs or iterations, ``meta`` telling which."""
        super()._save_checkpoint_with_step(runner, step, meta)

    def write_best(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save again if one of ``metrics`` is the best so far, and delete what it replaces."""
        super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self.write_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        self.write_best(runner, metrics)
