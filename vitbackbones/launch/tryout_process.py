"""The process of :func:`vitbackbones.launch.tryout.try_out`: trains a few steps, and reports.

``python -m vitbackbones.launch.tryout_process CONFIG FOLDER RESULT`` writes RESULT, a JSON file.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import resource
import sys
import time
from bisect import bisect
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from vitbackbones.checkpoint import CheckpointError
from vitbackbones.engine.data_order import end_workers, is_endless
from vitbackbones.engine.networks import optimizers_of, unwrapped
from vitbackbones.errors import UserError, in_words

from .built import as_built, build_runner
from .checks import check_config, has_data, require
from .loading import load_config
from .noise import fit_to_noise, noise_batch
from .training import SPLITS, add_hooks, add_import, run, starting_point, trainer

PACKAGE = Path(__file__).parents[1]
STEPS = 3  # of training: the first one is slower than those that follow
BATCHES = 2  # of validation, likewise
IMAGES = 2  # of noise, in a batch


def try_here(name: str, folder: str) -> dict[str, Any]:
    """The fields of a :class:`~.tryout.Tryout`, of a training in this process.

    Raises:
        UserError: training would stop there, or a part of it fails.
        CheckpointError: weights to start from cannot be used.
    """
    written = load_config(name)
    written.work_dir, written.launcher, written.resume = folder, 'none', False
    if written.get('visualizer'):
        written.visualizer.vis_backends = []  # nobody is to see curves of this
    noise = not has_data(written, SPLITS)
    runner = _runner_on_noise(written) if noise else _runner(written)
    watch, heard = _Watch(), _Heard()
    runner.register_hook(watch)
    runner.logger.addHandler(heard)
    _train(runner)
    if not math.isfinite(watch.losses[0]):
        raise UserError(f'the loss of the first training step is {watch.losses[0]}')
    watch.training = False
    batches = [noise_batch(written.model, IMAGES, training=False)] if noise else []
    predicted, batch = _predict(runner, batches) if noise or runner.val_loop else ('none', 0.0)
    validates = not noise and runner.val_loop
    loop: Any = runner.train_loop
    length = loop.max_iters if is_endless(loop) else loop.max_epochs * len(loop.dataloader)
    later = watch.times[1:] or watch.times
    return dict(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
        noise=noise,
        loss=watch.losses[0],
        predicted=predicted,
        iteration=sum(later) / len(later),
        validation=batch * len(runner.val_dataloader) if validates else 0.0,
        iterations=0 if noise else length,
        validations=_validations(loop) if validates else 0,
        memory=_peak_memory(),
        idle=watch.idle,
        said=list(dict.fromkeys(heard.lines)),
    )


# --------------------------------------------------------------------------------- the Runner


def _runner(written: Config) -> Runner:
    add_hooks(written)
    add_import(written)
    cfg = copy.deepcopy(written)
    return trainer(written, cfg, starting_point(cfg, None))


def _runner_on_noise(written: Config) -> Runner:
    """Without what is made for the data: hooks of theirs, validation, sizes of batches."""
    require(written, 'train_cfg', 'optim_wrapper')
    check_config(written, ())
    written.custom_hooks, written.load_from = [], None
    add_hooks(written)
    add_import(written)
    built = as_built(written, ())
    fit_to_noise(built.model)
    for key in ('dataloader', 'cfg', 'evaluator'):
        built[f'val_{key}'] = built[f'test_{key}'] = None
    built.train_dataloader = dict(
        batch_size=IMAGES,
        num_workers=0,
        dataset=_Noise(noise_batch(built.model, IMAGES * STEPS)),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    return build_runner(built, written, training=True)


class _Noise(Dataset):
    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.batch['inputs'])

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {key: values[i] for key, values in self.batch.items()}


# ---------------------------------------------------------------------------------- the steps


class _EndError(Exception):
    """Ends the training loop."""


class _Watch(Hook):
    """Notes what the first steps cost and teach, and ends the training after them."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.training = True
        self.losses: list[float] = []
        self.times: list[float] = []  # from the end of an iteration to that of the next
        self.idle: list[str] = []
        self._last = 0.0

    def before_train(self, runner: Runner) -> None:
        names = {id(p): name for name, p in unwrapped(runner.model).named_parameters()}

        def look(optimizer: Any, *args: Any) -> None:
            if not self.losses:
                params = [p for group in optimizer.param_groups for p in group['params']]
                self.idle += [names[id(p)] for p in params if p.requires_grad and p.grad is None]

        for optimizer in optimizers_of(runner):
            optimizer.register_step_pre_hook(look)
        self._last = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append(float(outputs['loss']))  # waits for the device
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now
        if len(self.losses) == STEPS:
            raise _EndError

    def before_val(self, runner: Runner) -> None:
        if self.training:  # there are so few images that an epoch has ended
            raise _EndError


class _Heard(logging.Handler):
    """What we warn of, not mmengine; parameters without gradient are reported by themselves."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        ours = Path(record.pathname).is_relative_to(PACKAGE)
        if ours and 'got no gradient' not in record.getMessage():
            self.lines.append(record.getMessage())


def _train(runner: Runner) -> None:
    try:
        run(runner)
    except _EndError:
        end_workers(runner.train_loop)
    except (UserError, CheckpointError):
        raise
    except Exception as error:  # models, data and hooks are anyone's
        raise _failed('training', error) from error


def _predict(runner: Runner, batches: list[Any]) -> tuple[str, float]:
    """What was predicted, and the seconds of a batch.

    Args:
        batches: on noise; else those of the validation are taken.
    """
    runner.model.eval()
    took, samples = 0.0, []
    try:
        if not batches:
            results = _Results()
            runner.register_hook(results)
            runner.call_hook('before_val')
            runner.call_hook('before_val_epoch')
            start = time.perf_counter()
            for i, batch in zip(range(BATCHES), runner.val_loop.dataloader, strict=False):
                runner.val_loop.run_iter(i, batch)
                took = time.perf_counter() - start
                start = time.perf_counter()
            samples = results.samples
        for batch in batches:
            with torch.no_grad():
                samples += runner.model.val_step(batch)
    except Exception as error:  # models, data and metrics are anyone's
        raise _failed('predicting', error) from error
    objects = [len(sample.pred_instances) for sample in samples if 'pred_instances' in sample]
    found = f'{sum(objects)} objects' if objects else 'label maps'
    return f'{found} in {len(samples)} images', took


class _Results(Hook):
    def __init__(self) -> None:
        self.samples: list[Any] = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.samples += list(outputs or ())


def _failed(what: str, error: Exception) -> UserError:
    return UserError(f'{what} fails: {type(error).__name__}: {in_words(error)}')


# -------------------------------------------------------------------------------- the numbers


def _validations(loop: Any) -> int:
    """How many there are in the whole training, by the rule of mmengine's loops."""
    end = loop.max_iters if is_endless(loop) else loop.max_epochs
    count = 0
    for done in range(max(1, loop.val_begin), end + 1):
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, done + 1) - 1]
        count += done % interval == 0 or done == end
    return count


def _peak_memory() -> int:
    """Bytes: allocated on the GPU, else resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if status.exists():  # rusage also counts what the parent had when it started this process
        (line,) = (x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def main() -> None:
    name, folder, result = sys.argv[1:]
    try:
        found = try_here(name, folder)
    except (UserError, CheckpointError) as error:
        found = {'error': str(error)}
    Path(result).write_text(json.dumps(found))


if __name__ == '__main__':
    main()
