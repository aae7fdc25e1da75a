"""Adaptive gradient clipping: gradients bounded by the weights that they change.

Paper: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", arXiv
2102.06171 (section 4, equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from vitbackbones.registry import HOOKS, register


@torch.no_grad()
def clip_adaptively(param: Tensor, clipping: float | Tensor, eps: float = 1e-3) -> None:
    """Scale down the gradient of every unit whose norm exceeds ``clipping`` times the weights'.

    A unit is what makes one output: a row of a linear layer's weight, a filter of a convolution's.
    A tensor of one dimension is one unit. A unit counts as being of norm ``eps`` at least, so that
    what starts at zero can leave it.
    """
    if param.grad is None:
        return
    most = clipping * _unit_norms(param).clamp_min(eps)
    norms = _unit_norms(param.grad)
    param.grad.mul_(torch.where(norms > most, most / norms, 1.0))


def _unit_norms(x: Tensor) -> Tensor:
    """Norms over all but the first dimension, shaped so that they multiply ``x``."""
    dims = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True)


@register(HOOKS)
class AdaptiveClipHook(Hook):
    """Clips gradients before each step of the optimiser, unit by unit, see :func:`clip_adaptively`.

    It acts on what the optimiser gets: after gradients are averaged over processes, accumulated and
    divided by a loss scale; optimisers with ``fused=True`` divide by it within their step, and are
    allowed for. ``optim_wrapper.clip_grad``, which clips by the norm of all gradients
    together, goes before, where both are set::

        custom_hooks = [dict(type='vitbackbones.AdaptiveClipHook', clipping=0.02)]

    Args:
        clipping: largest ratio of the norms of a unit's gradient and of its weights; above 0.
        eps: least norm that weights count as.
        exempt: parts of the names of parameters that are not clipped. The paper leaves out the last
            linear layer; training scripts of DeiT's kind, SHViT's among them, clip all.

    Raises:
        ValueError: ``clipping`` or ``eps`` is not positive, or no parameter has a name in
            ``exempt``.
    """

    def __init__(
        self, clipping: float = 0.02, eps: float = 1e-3, exempt: Sequence[str] = ()
    ) -> None:
        for name, value in (('clipping', clipping), ('eps', eps)):
            if not value > 0:
                raise ValueError(f'AdaptiveClipHook: {name}={value} must be positive')
        self.clipping = clipping
        self.eps = eps
        self.exempt = tuple(exempt)
        self._exempt: set[int] = set()

    def before_train(self, runner: Runner) -> None:
        named = dict(runner.model.named_parameters())
        for part in self.exempt:
            if not any(part in name for name in named):
                raise ValueError(
                    f'AdaptiveClipHook: exempt={part!r} is in no name of a parameter; names are '
                    f'like {", ".join([*named][:: max(len(named) // 4, 1)])}'
                )
        self._exempt = {
            id(param) for name, param in named.items() if any(p in name for p in self.exempt)
        }
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, optimizer: Optimizer, *args: Any) -> None:
        # What torch's scaler leaves to a fused step to divide gradients by.
        scale = getattr(optimizer, 'grad_scale', None)
        clipping = self.clipping if scale is None else self.clipping * scale
        for group in optimizer.param_groups:
            for param in group['params']:
                if id(param) not in self._exempt:
                    clip_adaptively(param, clipping, self.eps)
