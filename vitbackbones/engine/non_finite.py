"""Losses and gradients that are no finite numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, is_distributed
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from vitbackbones.checkpoint import CheckpointError
from vitbackbones.checkpoint.reading import preview
from vitbackbones.registry import HOOKS, register

from . import mmengine_compat as compat
from .resume_point import newest_checkpoint

# Losses are scaled up so that small gradients do not vanish; scales below 1 serve nothing. At this
# one a gradient of half precision overflows from 7e7 on, which no training recovers from, and it
# takes 27 overflows in a row from torch's first scale: lowering it further is no cure.
LOWEST_SCALE = 2**-10


class NonFiniteError(RuntimeError):
    """A training whose losses stay NaN or infinite."""


@register(HOOKS)
class NonFiniteHook(Hook):
    """Keeps NaN and infinity out of the weights, and ends a training that has nothing else.

    A step with a gradient that is not finite is skipped, as mixed precision does it anyway, and in
    an iteration of such a loss BatchNorms keep their statistics. After ``patience`` of them in a
    row the training ends with a :class:`NonFiniteError` that names the last good checkpoint, the
    images of the batch and the first module whose output was not finite.

    ::

        custom_hooks = [dict(type='vitbackbones.NonFiniteHook')]  # the prefix imports it

    Args:
        patience: from 2 on, modules are watched in the last iteration before the end alone.

    Raises:
        ValueError: ``patience`` is below 1.
    """

    priority = 'HIGH'  # before averaged weights and checkpoints take anything over

    def __init__(self, patience: int = 3) -> None:
        if patience < 1:
            raise ValueError(f'NonFiniteHook: patience={patience} must be at least 1')
        self.patience = patience
        self._row = 0
        self._skipped = False
        self._stepped = False
        self._scaled: list[AmpOptimWrapper] = []
        self._watch: _Watch | None = None
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        wrappers = [*wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        for each in wrappers:
            # Where losses are scaled, the scaler skips, and gradients overflow now and then.
            scaled = hasattr(each, 'loss_scaler')
            if isinstance(each.optimizer, Optimizer):
                each.optimizer.register_step_pre_hook(
                    self._note_step if scaled else self._skip_bad_step
                )
        self._scaled = [each for each in wrappers if isinstance(each, AmpOptimWrapper)]
        self._statistics = [
            (buffer, buffer.clone())
            for module in runner.model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._skipped = self._stepped = False
        for now, before in self._statistics:
            before.copy_(now)
        if self._row == self.patience - 1:
            self._watch = _Watch(runner.model)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count iterations in a row that were bad in any of the processes.

        Raises:
            NonFiniteError: this is the last one that is tolerated.
        """
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()
        bad = {
            name: value
            for name, value in (outputs or {}).items()
            if 'loss' in name and not _finite(value)
        }
        overflow = self._overflow()
        if not _anywhere(bool(bad or overflow) or self._skipped):
            self._row = 0
            return
        self._row += 1
        for now, before in self._statistics:
            now.copy_(before)
        what = f'iteration {runner.iter + 1}: ' + (
            ', '.join(f'{name} is {float(value)}' for name, value in bad.items())
            or overflow
            or ('a gradient is not finite' if self._skipped else 'it is so in another process')
        )
        images = preview(dict.fromkeys(_image_paths(data_batch)), 16) or 'of unknown names'
        if self._row < self.patience:
            runner.logger.warning(
                f'{what}; {self._row} of {self.patience} in a row, images: {images}'
            )
            return
        raise NonFiniteError(
            f'{what} ({self._row} in a row): training ends\n'
            f'  - last good checkpoint: {_last_good(runner)}\n'
            f'  - images: {images}\n'
            f'  - first module with a non-finite output: {(watch and watch.first) or "none"}'
        )

    def _overflow(self) -> str:
        """How the losses are scaled, if another scale does not make gradients finite."""
        for wrapper in self._scaled:
            scale = wrapper.loss_scaler.get_scale()
            if not compat.has_fixed_loss_scale(wrapper):
                if scale < LOWEST_SCALE:
                    return f'gradients overflow at a loss scale of {scale:.1e}'
            elif wrapper.should_update() and not self._stepped:
                return f"gradients overflow at loss_scale={scale:g}; 'dynamic' would lower it"
        return ''

    def _note_step(self, optimizer: Optimizer, *args: Any) -> None:
        # A fused optimizer is asked to step all the same, and skips within.
        self._stepped = not getattr(optimizer, 'found_inf', None)

    def _skip_bad_step(self, optimizer: Optimizer, *args: Any) -> None:
        params = [param for group in optimizer.param_groups for param in group['params']]
        peaks = [
            torch.linalg.vector_norm(param.grad, torch.inf).float()
            for param in params
            if param.grad is not None and not param.grad.is_sparse
        ]
        if peaks and not torch.stack(peaks).isfinite().all():
            self._skipped = True
            for param in params:
                param.grad = None  # what has no gradient is left alone, its averages, too


@register(HOOKS)
class BadNumbersHook(NonFiniteHook):
    """The name of :class:`NonFiniteHook` in version 0.1; goes in 0.3."""

    def __init__(self, patience: int = 3) -> None:
        # FutureWarning is shown to whoever wrote the config, DeprecationWarning is not.
        message = 'BadNumbersHook is called NonFiniteHook now; the old name goes in version 0.3'
        warnings.warn(message, FutureWarning, stacklevel=2)
        super().__init__(patience)


class _Watch:
    """Notes the first module that hands on something that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.first = ''
        module: Any = model.module if is_model_wrapper(model) else model
        self._handles = [
            part.register_forward_hook(partial(self._look, name or 'the model'))
            for name, part in module.named_modules()
        ]

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.first or _finite(output):
            return
        self.first = f'{name} ({type(module).__name__})'
        weights = [key for key, value in module.named_parameters() if not _finite(value)]
        if weights:
            self.first += f', whose weights are not finite: {preview(weights)}'
        elif not _finite(args):
            self.first += ', whose input was not finite'


def _finite(value: Any) -> bool:
    """Whether all numbers in ``value`` are finite, through containers."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.detach().isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _anywhere(flag: bool) -> bool:
    """Whether any of the processes says so."""
    if not is_distributed():
        return flag
    number = torch.tensor(int(flag))
    all_reduce(number, 'max')
    return bool(number)


def _image_paths(batch: Any) -> Iterator[str]:
    """Paths of the images in a batch of mmdet's or mmseg's samples."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        for part in batch:
            yield from _image_paths(part)
    elif getattr(batch, 'img_path', None):
        yield batch.img_path


def _last_good(runner: Runner) -> str:
    try:
        newest, _ = newest_checkpoint(runner.work_dir)
    except CheckpointError:
        newest = None
    return f'{newest} (--resume goes on from it)' if newest else 'none'
