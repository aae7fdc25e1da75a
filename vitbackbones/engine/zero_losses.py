"""A warning of losses that are exactly 0 for many iterations: nothing is learnt from them."""

from __future__ import annotations

import re
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from vitbackbones.registry import HOOKS, register

# Words in the names that mmdet's and mmseg's heads give to losses of classes, objects and pixels:
# loss_cls, s0.loss_cls, loss_rpn_cls, enc_loss_cls, loss_obj, loss_center_heatmap, decode.loss_ce,
# aux_0.loss_ce, loss_semantic_seg.
_OF_CLASSES = {'cls', 'classes', 'ce', 'obj', 'objectness', 'conf', 'heatmap', 'focal', 'ohem'}
_OF_CLASSES |= {'seg', 'segm', 'sem', 'semantic', 'lovasz'}
# Others that are right to be 0 without an object: loss_bbox_cls is of the bins of box sides.
_OF_OBJECTS = {'bbox', 'box', 'iou', 'reg', 'mask', 'dice', 'centerness', 'offset', 'dfl'}


@register(HOOKS)
class ZeroLossHook(Hook):
    """Warns once of each classification loss, or of their sum, that stays exactly 0.

    That is so where nothing is left to learn: all objects are ignored, all pixels are of one class,
    or there is one class alone. A loss counts as 0 if it is so in all processes. Values stay on
    their device and are looked at every ``patience`` iterations.

    ::

        custom_hooks = [dict(type='vitbackbones.ZeroLossHook')]  # the prefix imports it

    Args:
        patience: iterations in a row.

    Raises:
        ValueError: ``patience`` is below 1.
    """

    priority = 'LOW'

    def __init__(self, patience: int = 50) -> None:
        if patience < 1:
            raise ValueError(f'ZeroLossHook: patience={patience} must be at least 1')
        self.patience = patience
        self._window: list[dict[str, Tensor]] = []
        self._row: dict[str, int] = {}  # by name: zeros in a row, to the end of the last window
        self._warned: set[str] = set()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the losses of an iteration; look at those of a whole window."""
        losses = {
            name: torch.as_tensor(value).detach()
            for name, value in (outputs or {}).items()
            if isinstance(value, (Tensor, float)) and (name == 'loss' or is_of_classes(name))
        }
        self._window.append(losses)
        if len(self._window) == self.patience:
            self._look(runner)
            self._window = []

    def _look(self, runner: Runner) -> None:
        everywhere: list[dict[str, list[bool | None]]] = all_gather_object(self._zeros())
        for name in sorted({name for zeros in everywhere for name in zeros} - self._warned):
            ranks = [zeros[name] for zeros in everywhere if name in zeros]
            for values in zip(*ranks, strict=True):
                there = [value for value in values if value is not None]
                if not there:
                    continue  # a loss of some iterations only
                self._row[name] = self._row.get(name, 0) + 1 if all(there) else 0
                if self._row[name] == self.patience:
                    self._warned.add(name)
                    self._warn(runner, name)
                    break

    def _zeros(self) -> dict[str, list[bool | None]]:
        """By name: whether it was 0 in each iteration of the window, None where it was not."""
        zeros = {}
        for name in {name for losses in self._window for name in losses} - self._warned:
            at = [i for i, losses in enumerate(self._window) if name in losses]
            flags = torch.stack([(self._window[i][name] == 0).all() for i in at]).tolist()
            zeros[name] = [*map(dict(zip(at, flags, strict=True)).get, range(self.patience))]
        return zeros

    def _warn(self, runner: Runner, name: str) -> None:
        what = 'the sum of all losses' if name == 'loss' else name
        runner.logger.warning(
            f'{what} was exactly 0 in {self.patience} iterations in a row (up to iteration '
            f'{runner.iter + 1}): nothing is learnt from it; `vitbackbones check-data CONFIG` '
            'counts what there is to learn'
        )


def is_of_classes(name: str) -> bool:
    """Whether a loss of this name tells classes apart, and is never 0 while there are some."""
    words = {*re.split(r'[._\d]+', name)}
    return 'loss' in words and bool(words & _OF_CLASSES) and not words & _OF_OBJECTS
