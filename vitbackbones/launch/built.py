"""What a run is built from, next to what the user wrote: the one place where the two part.

A config that is *written* is the user's own: file, ``--demo``, ``--cfg-options``, and what a saved
config needs to be read anywhere. It is what mmengine dumps into work directory and checkpoints, and
what others read: inferencers, mmdet's and mmseg's tools. A config that is *built* has been adapted
to this machine and checks what it loads; nobody else ever sees it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from vitbackbones.data.configs import check_files_as_they_come
from vitbackbones.errors import UserError, in_words

from .device import adapt_to_device
from .ready import make_annotations_ready


def as_built(cfg: Config, splits: Sequence[str]) -> Config:
    """A copy of ``cfg`` with all that a run changes for its own sake; ``cfg`` stays as it is.

    Args:
        splits: those of 'train', 'val', 'test' that are about to be used.

    Raises:
        UserError: an annotation file is wrong, or a copy of one cannot be written.
    """
    built = copy.deepcopy(cfg)
    adapt_to_device(built)
    make_annotations_ready(built, splits)
    check_files_as_they_come(built, splits)
    return built


def build_runner(built: Config, written: Config, *, training: bool) -> Runner:
    """mmengine's Runner with everything built that it would build later from the config.

    Args:
        built: of :func:`as_built`, what the run consists of.
        written: what the Runner's ``cfg`` is, and so the work directory, checkpoints and loggers
            get. A test leaves the training's dump alone: its own has ``_test`` in its name.

    Raises:
        UserError: an option that some class does not take, a value of the wrong kind, a folder
            that cannot be written.
    """
    try:
        runner = _AdaptedRunner(built, written, '' if training else '_test')
        # mmengine builds a loop when its property is read.
        for loop in ('train_loop', 'val_loop') if training else ('test_loop',):
            getattr(runner, loop)
        if training:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except (AssertionError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'the config cannot be built: {in_words(error)}') from error
    except OSError as error:
        raise UserError(f'{error.filename or built.work_dir}: {error.strerror or error}') from error
    return runner


class _AdaptedRunner(Runner):
    """mmengine's Runner whose ``cfg`` is the written config, while its parts are the built ones."""

    def __init__(self, built: Config, written: Config, suffix: str) -> None:
        self._suffix = suffix  # of the dump's name
        self._model_wrapper = built.get('model_wrapper_cfg')
        options = inspect.signature(Runner.__init__).parameters.keys() - {'self', 'cfg'}
        super().__init__(**{key: built[key] for key in options if key in built}, cfg=written)

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        # mmengine reads this one from ``cfg``.
        return super().wrap_model(self._model_wrapper, model)

    def dump_config(self) -> None:
        # Under its own name, whatever the config is made of: mmengine's lazy objects, for one, do
        # not outlive being put into another Config.
        if self.cfg.filename is None:
            super().dump_config()
            return
        path = Path(self.cfg.filename)
        self.cfg.dump(Path(self.work_dir, f'{path.stem}{self._suffix}{path.suffix}'))
