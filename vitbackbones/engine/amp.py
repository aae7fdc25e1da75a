"""Mixed precision where mmengine offers none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from vitbackbones.registry import OPTIM_WRAPPERS, register


@register(OPTIM_WRAPPERS)
class CPUAmpOptimWrapper(OptimWrapper):
    """bfloat16 autocast on a CPU, where mmengine's ``AmpOptimWrapper`` refuses to start.

    bfloat16 has the range of float32, so the loss needs no scaling. It has three digits, too few
    for pixel coordinates, and mmcv's CPU operators do not take it: mmdet's boxes, which take the
    type of their scores, and the maps that regions are cut from are made float32 here. Arguments
    are those of mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            stack.enter_context(torch.autocast('cpu', dtype=torch.bfloat16))
            for module in model.modules():
                if hasattr(module, 'prior_generator'):  # mmdet's dense heads
                    handle = module.register_forward_hook(lambda *args: _float32(args[-1]))
                elif hasattr(module, 'roi_layers'):  # mmdet's RoI extractors
                    handle = module.register_forward_pre_hook(lambda *args: _float32(args[-1]))
                else:
                    continue
                stack.callback(handle.remove)
            yield


def _float32(value: Any) -> Any:
    """``value`` with its floating tensors in float32, through tuples and lists."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_float32, value))
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value
