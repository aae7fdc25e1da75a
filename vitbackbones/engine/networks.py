"""Where in a model our backbones are, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from vitbackbones.backbones.base import Backbone


class Network(NamedTuple):
    """A part of the model with one of our backbones: a detector, a segmentor, a student."""

    path: str  # in the config
    owner: Any
    backbone: Backbone

    @property
    def source(self) -> str:
        """What messages call the backbone."""
        return f'{self.path}.backbone ({type(self.backbone).__name__})'


def networks_of(model: nn.Module) -> list[Network]:
    """What is to be trained, through wrappers of any depth."""
    found = []
    for name, owner in model.named_modules():
        backbone = unwrapped(getattr(owner, 'backbone', None))
        if not isinstance(backbone, Backbone):
            continue
        if any(param.requires_grad for param in owner.parameters()):  # no frozen teacher
            parts = [part for part in name.split('.') if part not in ('', 'module')]
            found.append(Network('.'.join(['model', *parts]), owner, backbone))
    return found


def optimizers_of(runner: Runner) -> list[Optimizer]:
    """Torch's optimizers; other frameworks put objects of their own in their place."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [w.optimizer for w in wrappers if isinstance(w.optimizer, Optimizer)]


def unwrapped(module: Any) -> Any:
    """``module`` without the wrapper of distributed training."""
    return module.module if is_model_wrapper(module) else module


def heads_of(owner: Any) -> Iterator[tuple[str, Any]]:
    """What reads the levels themselves, by its place; RoI heads read what extractors cut out."""
    for name in ('bbox_head', 'rpn_head', 'decode_head', 'auxiliary_head'):
        head = unwrapped(getattr(owner, name, None))
        if isinstance(head, nn.ModuleList):
            yield from ((f'{name}[{i}]', part) for i, part in enumerate(head))
        elif head is not None:
            yield name, head
