"""Running parts of a model on empty maps, without leaving a trace in it."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vitbackbones.engine import random_states


@contextmanager
def no_trace(*modules: nn.Module) -> Iterator[None]:
    """Within it ``modules`` are in eval mode and record gradients.

    In eval mode no statistics change, and no processes communicate. Modes, buffers and random
    states are restored.
    """
    parts = [part for module in modules for part in module.modules()]
    modes = [(part, part.training) for part in parts]
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in parts
        for name, buffer in part.named_buffers(recurse=False)
    ]
    states = random_states.take()
    for module in modules:
        module.eval()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for part, name, buffer, value in buffers:
                buffer.copy_(value)
                setattr(part, name, buffer)
        random_states.restore(states)


def as_if_training(module: nn.Module) -> None:
    """Set the mode of training, but for what draws, keeps statistics or talks to other processes.

    That is left to layers without parts: dropout, DropPath, normalisation; torch's attention drops
    by itself.
    """
    module.train()
    for part in module.modules():
        is_layer = next(part.children(), None) is None and part is not module
        if is_layer or isinstance(part, (_NormBase, nn.MultiheadAttention)):
            part.training = False


def empty_maps(
    like: Tensor, channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]
) -> list[Tensor]:
    """What a backbone makes of an image of ``size`` (H, W): (1, C, H / stride, W / stride) each."""
    return [
        like.new_zeros(1, c, *(math.ceil(side / s) for side in size), requires_grad=True)
        for c, s in zip(channels, strides, strict=True)
    ]


def takes_maps_alone(module: nn.Module) -> bool:
    """Whether ``module`` needs one argument; what needs annotations too cannot be tried."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # written in C
        return False
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind in plain]
    # YOLOv3's neck gives its one argument a type in the place of the default.
    return len(needed) == 1 or (not needed and len(parameters) == 1)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def read_by(outputs: Iterable[Tensor]) -> set[int]:
    """The ``id`` of every leaf, map or parameter, that ``outputs`` depend on.

    Read from the recorded graph: no gradient is computed.
    """
    outputs = list(outputs)
    found = {id(tensor) for tensor in outputs}
    waiting = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if (leaf := getattr(node, 'variable', None)) is not None:
            found.add(id(leaf))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
