"""A network as a list of layers: what learning rates, freezing and wrapping go by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

#: What a layer is made of: modules, and parameters that belong to no module but the network.
Part = nn.Module | nn.Parameter
#: Parts of one layer, each with its stage: 0 is the stem, None is never frozen.
Layer = list[tuple[int | None, Part]]


def in_stage(stage: int | None, *parts: Part | None) -> Layer:
    """Parts of a stage as a layer, without those that are None."""
    return [(stage, part) for part in parts if part is not None]


def parts_up_to(last: int, layers: Iterable[Layer]) -> list[Part]:
    """What the stem, which is stage 0, and the stages up to ``last`` consist of."""
    return [p for stage, p in itertools.chain(*layers) if stage is not None and stage <= last]


def depth_of(name: str, network: nn.Module, layers: Sequence[Layer]) -> int:
    """The number of the layer that a parameter is in.

    Raises:
        ValueError: ``network`` has no such parameter.
    """
    depths = {id(part): depth for depth, layer in enumerate(layers) for _, part in layer}
    part: Any = network
    for attribute in name.split('.'):
        part = getattr(part, attribute, None)
        if id(part) in depths:
            return depths[id(part)]
    raise ValueError(f'{type(network).__name__} has no parameter {name!r}')
