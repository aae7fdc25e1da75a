"""The attention of a network's blocks, from what their projections are given in a pass."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone

from .formulas import FORMULAS, Formula


@dataclass(frozen=True)
class Attention:
    """What one block attends to.

    Attributes:
        stage: of the block, from 1; SuperViT has quarters of its blocks.
        block: which of the blocks of that stage that attend, from 1.
        kind: of attention, as :mod:`.formulas` names it.
        values: (heads, H', W') of places, or (C,) of channels.
    """

    stage: int
    block: int
    kind: str
    values: Tensor


def attending(network: Backbone) -> dict[int, list[tuple[nn.Module, Formula]]]:
    """{stage: the modules that attend, with what computes how}, as the network declares them."""
    found: dict[int, list[tuple[nn.Module, Formula]]] = {}
    pattern, formula = network.attends or ('', '')
    for name, module in network.named_modules():
        if name and re.fullmatch(pattern, name):
            stage = _stage_of(module, network)
            found.setdefault(stage, []).append((module, FORMULAS[formula]))
    return dict(sorted(found.items()))


def _stage_of(module: nn.Module, network: Backbone) -> int:
    for stage, part in itertools.chain(*network.layers()):
        if isinstance(part, nn.Module) and any(inner is module for inner in part.modules()):
            assert stage is not None
            return stage
    raise AssertionError(f'{type(network).__name__}.layers() lists all modules')


@torch.no_grad()
def attention(network: Backbone, x: Tensor, stages: Sequence[int]) -> list[Attention]:
    """The attention in the blocks of some stages for one image (1, in_channels, H, W).

    A network with operating points runs at the whole one. Nothing is left at it afterwards.
    """
    found: list[Attention] = []
    counts: Counter[int] = Counter()

    def keep(stage: int, kinds: Iterator[tuple[str, Tensor]]) -> None:
        counts[stage] += 1
        for kind, values in kinds:
            if values.ndim == 2:
                values = values.unflatten(1, _size(values.shape[1], network, x))
            found.append(Attention(stage, counts[stage], kind, values))

    with ExitStack() as hooks:
        hooks.enter_context(_whole(network))
        for stage, modules in attending(network).items():
            for module, formula in modules if stage in stages else ():
                _watch(hooks, module, formula, functools.partial(keep, stage))
        network(x)
    return found


def _watch(hooks: ExitStack, module: nn.Module, formula: Formula, keep: Any) -> None:
    """Compute a formula when ``module`` has run, and forget what it was given."""
    inputs: dict[str, Tensor] = {}

    def before(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[name] = args[0]

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(formula.values(module, inputs, args))
        inputs.clear()

    for name, part in module.named_modules():
        if name in formula.parts:
            hook = functools.partial(before, name)
            hooks.enter_context(part.register_forward_pre_hook(hook))
    hooks.enter_context(module.register_forward_hook(after))


def _size(positions: int, network: Backbone, x: Tensor) -> tuple[int, int]:
    """Height and width of the network's map of so many positions."""
    if not network.dense:  # SuperViT's classifier resizes images to squares
        side = math.isqrt(positions)
        return side, side
    sizes = [(-(-x.shape[2] // s), -(-x.shape[3] // s)) for s in network.strides]
    return next(size for size in sizes if size[0] * size[1] == positions)


@contextmanager
def _whole(network: Any) -> Iterator[None]:
    """The network at full size with all its tokens, whatever its operating point."""
    if not hasattr(network, 'operating_point'):
        yield
        return
    before, network.operating_point = network.operating_point, None
    try:
        yield
    finally:
        network.operating_point = before
