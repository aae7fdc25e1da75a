"""What a training ends with: its best checkpoint, and how to test it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from vitbackbones.registry import HOOKS, register

# What a test reads of a config.
_TESTED = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator', 'default_scope')


@register(HOOKS)
class BestCheckpointHook(Hook):
    """Names the best checkpoint when training ends, its metric and the command that tests it.

    Best is what ``save_best`` of CheckpointHook has found; without one it is the last checkpoint.

    ::

        custom_hooks = [dict(type='vitbackbones.BestCheckpointHook')]  # the prefix imports it
    """

    priority = 'LOWEST'  # all is saved by then

    def after_train(self, runner: Runner) -> None:
        """Say it, once, in the first process."""
        saving = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if saving is None or not is_main_process():
            return
        config = shlex.quote(_config_of(runner))
        found = _best_ones(saving, runner.message_hub.runtime_info)
        if not found and saving.last_ckpt:
            found = [('the last checkpoint', saving.last_ckpt)]
        for what, path in found:
            checkpoint = shlex.quote(_short(Path(path)))
            runner.logger.info(
                f'{what} is {checkpoint}; test it with `vitbackbones test {config} {checkpoint}`'
            )


def _best_ones(saving: CheckpointHook, info: dict[str, Any]) -> list[tuple[str, str]]:
    """What each one is best in, and its path; a file that is gone is left out."""
    names = saving.key_indicators or [] if saving.save_best else []
    several = len(names) > 1
    found = []
    for name in names:
        suffix = f'_{name}' if several else ''
        path, score = info.get(f'best_ckpt{suffix}'), info.get(f'best_score{suffix}')
        if path and score is not None and ('://' in path or Path(path).exists()):
            found.append((f'the best checkpoint ({name} {float(score):.4f})', path))
    return found


def _config_of(runner: Runner) -> str:
    """The user's file if a test by it is that of this training, else the one that was saved."""
    own = runner.cfg.filename
    if own is None:
        return _short(Path(runner.work_dir, f'{runner.timestamp}.py'))
    try:
        read = Config.fromfile(own)
        if all(read.get(key) == runner.cfg.get(key) for key in _TESTED):
            return _short(Path(own))
    except Exception:  # a config is a program, and may have been changed since: the copy will do
        pass
    return _short(Path(runner.work_dir, Path(own).name))


def _short(path: Path) -> str:
    """Relative to where the command will be given, if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len) if '://' not in str(path) else str(path)
