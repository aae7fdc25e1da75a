"""Which stages of a network have a map, and the maps of one pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError
from vitbackbones.layers.layout import to_map, to_tokens


@dataclass
class Pass:
    """What was recorded of a pass: the size of the input, and the map of each stage by number."""

    canvas: tuple[int, int] = (0, 0)
    maps: dict[int, Tensor] = field(default_factory=dict)


def stages_of(network: Backbone) -> list[int]:
    """The stages that have a map, counted from 1; of a pyramid the levels that are output.

    SuperViT's classifier has none: its tokens are no map after some were dropped.
    """
    if not network.dense:
        return []
    if _has_pyramid(network):
        return [i + 1 for i in network.out_indices]
    return [*range(1, network.num_stages + 1)]


def _has_pyramid(network: Backbone) -> bool:
    """Whether it makes its outputs of parts that are in no stage, as SuperViT does."""
    return any(stage is None for stage, _ in itertools.chain(*network.layers()))


def choose(wanted: Sequence[int] | None, there: Sequence[int], of: str) -> list[int]:
    """The wanted numbers, each once; all that are there if none is.

    Args:
        of: what is numbered, in words.

    Raises:
        UserError: one is not there.
    """
    for number in wanted or ():
        if number not in there:
            choices = ', '.join(map(str, there))
            raise UserError(f'--stage {number}: {of} {choices}')
    return sorted({*wanted}) if wanted else [*there]


@contextmanager
def recording(
    network: Backbone, stages: Sequence[int], *, in_trunk: bool = False
) -> Iterator[Pass]:
    """Keep the maps (B, C, H', W') of ``stages`` of the passes within the block, the last of them.

    With gradients enabled, every map has one, whatever is frozen; no block is computed twice to
    save memory, for the second time would be without them. Nothing is left at the network
    afterwards.

    Args:
        in_trunk: keep what goes on to the next stage, so that gradients come from there too, not
            what is output of a stage, perhaps after a norm of its own.
    """
    seen = Pass()
    outputs = {i + 1: place for place, i in enumerate(network.out_indices)}
    inner = {s for s in stages if s not in outputs}
    if in_trunk and not _has_pyramid(network):
        inner = {s for s in stages if s < network.num_stages}

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        (x,) = args
        seen.maps.clear()
        seen.canvas = (x.shape[2], x.shape[3])
        return (x.clone().requires_grad_(torch.is_grad_enabled()),)

    def inside(stage: int, _: nn.Module, args: Any, y: Tensor) -> Tensor:
        stride = network.strides[stage - 1]
        height, width = (-(-side // stride) for side in seen.canvas)
        seen.maps[stage] = kept = y if y.ndim == 4 else to_map(y, height, width)
        # What goes on is made of what is kept, for gradients come back by that way.
        return kept if y.ndim == 4 else to_tokens(kept)

    def after(_: nn.Module, args: Any, maps: Sequence[Tensor]) -> None:
        seen.maps.update({s: maps[outputs[s]] for s in stages if s not in inner})

    with ExitStack() as hooks:
        hooks.callback(setattr, network, 'with_cp', network.with_cp)
        network.with_cp = False
        hooks.enter_context(network.register_forward_pre_hook(before))
        hooks.enter_context(network.register_forward_hook(after))
        for stage in inner:
            hook = functools.partial(inside, stage)
            hooks.enter_context(_last_part(network, stage).register_forward_hook(hook))
        yield seen


def _last_part(network: Backbone, stage: int) -> nn.Module:
    # The last layer may hold norms of outputs that nothing but heads reads.
    parts = itertools.chain(*network.layers()[:-1])
    *_, last = (part for of, part in parts if of == stage and isinstance(part, nn.Module))
    return last
