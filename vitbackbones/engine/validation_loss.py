"""The losses of the validation data, which mmdet and mmseg do not compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vitbackbones.registry import HOOKS, register

from . import random_states
from .ground_truth import (
    at_input_scale,
    ignored_label,
    is_loaded_late,
    obstacle,
    pad_to,
    samples_of,
)
from .networks import unwrapped
from .trial import as_if_training

#: By name: the sum of a loss over images, and their number.
Sums = dict[str, tuple[float, int]]

PREFIX = 'val_'  # of the names, as mmengine has it: the curves of training are called `loss`


@register(HOOKS)
class ValidationLossHook(Hook):
    """Adds the losses of the validation data to the metrics: ``val_loss``, ``val_loss_cls``, ...

    They are what training would compute of those images, averaged over all of them: of the weights
    that are validated (EMA's, where they are averaged), without augmentation and dropout, with the
    running statistics of BatchNorms. What a loss draws at random (RoIs, noise of queries) it draws
    alike in every validation. Loggers show them next to the metrics, and ``save_best`` may name
    them. Prediction, training and random states stay as they are without the hook, bit for bit.

    A validation computes every image twice. Where a model's losses cannot be computed, a warning
    says why, once.

    ::

        custom_hooks = [dict(type='vitbackbones.ValidationLossHook')]  # the prefix imports it
    """

    priority = 'HIGHEST'  # what reads the metrics after an epoch comes later

    def __init__(self) -> None:
        self._twin: Any = None
        self._late = True
        self._sums: Sums = {}
        self._given_up = False

    def before_val_epoch(self, runner: Runner) -> None:
        self._twin = None
        self._sums = {}
        loader = runner.val_dataloader
        self._late = is_loaded_late(loader.dataset)
        # Losses average over the processes, and these have to do so equally often.
        if is_distributed() and len(set(all_gather_object(len(loader)))) > 1:
            self._give_up(runner, 'processes validate on different numbers of batches')

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Compute the losses of a batch; averaged weights are in place now."""
        if self._given_up:
            return
        states = random_states.take()
        try:
            if self._twin is None:
                self._twin = _twin(unwrapped(runner.model))
            reason = obstacle(samples_of(data_batch)[0])
            if not reason:
                random_states.seed(0, batch_idx)
                if torch.cuda.is_initialized():
                    torch.cuda.manual_seed(batch_idx)
                images = len(samples_of(data_batch))
                for name, value in self._losses(data_batch).items():
                    _add(self._sums, name, float(value) * images, images)
        except Exception as error:  # models are anyone's, and some have losses in training alone
            if self._sums and is_distributed():
                raise  # the other processes wait for this one
            line = str(error).partition(chr(10))[0]
            reason = f'computing it fails with {type(error).__name__}: {line}'
        finally:
            random_states.restore(states)
        if reason:
            self._give_up(runner, reason)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Put the averages among the metrics."""
        self._twin = None
        ranks: list[Sums | None] = all_gather_object(None if self._given_up else self._sums)
        sums: Sums = {}
        for some in ranks:
            if metrics is None or some is None:
                return
            for name, (value, images) in some.items():
                _add(sums, name, value, images)
        assert metrics is not None
        nothing = not metrics
        for name, (value, images) in sums.items():
            # mmengine's log averages losses over the last values, here those of other epochs.
            runner.message_hub.log_scalars.pop(f'val/{PREFIX}{name}', None)
            if nothing:  # CheckpointHook knows by that, that nothing was predicted
                runner.message_hub.update_scalar(f'val/{PREFIX}{name}', value / images)
            else:
                metrics[PREFIX + name] = value / images

    def _losses(self, batch: Any) -> Mapping[str, Any]:
        samples = [
            at_input_scale(sample, image, self._late)
            for sample, image in zip(samples_of(batch), batch['inputs'], strict=True)
        ]
        preprocessor = self._twin.data_preprocessor
        data = preprocessor({**batch, 'data_samples': samples}, False)  # as for the prediction
        size = tuple(data['inputs'].shape[-2:])
        for sample in data['data_samples']:
            pad_to(sample, size, ignored_label(preprocessor))
        with torch.no_grad():
            return self._twin.parse_losses(self._twin(**data, mode='loss'))[1]

    def _give_up(self, runner: Runner, reason: str) -> None:
        self._given_up, self._twin = True, None
        runner.logger.warning(f'there will be no validation loss: {reason}')


def _twin(model: nn.Module) -> nn.Module:
    """The model with the same parameters and all else its own: modes, buffers, what heads count.

    As when training, since heads give their losses other numbers then than for predictions.
    """
    twin = copy.deepcopy(model, {id(param): param for param in model.parameters()})
    as_if_training(twin)
    return twin


def _add(sums: Sums, name: str, value: float, images: int) -> None:
    before, count = sums.get(name, (0.0, 0))
    sums[name] = (before + value, count + images)
