"""Which maps of a backbone take the place of those of another one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError

from .measuring import Map

#: Channels of a pyramid that goes in between: at most those of the published one, and no more than
#: the old maps had, but for the thinnest.
WIDTHS = (64, 256)


@dataclass(frozen=True)
class Choice:
    """The maps that are read in the place of others.

    Attributes:
        stages: of the backbone that are output, 0-based.
        maps: what is read, finest first; with a pyramid, its levels.
        positions: {position of an old map that was read: position of the one in its place}.
        pyramid: config of a neck between backbone and readers, None where there is no need of one.
        reason: why maps are not those of the old strides, or why there is a pyramid; else ''.
        by_depth: whether strides are others than those of the old maps.
    """

    stages: tuple[int, ...]
    maps: tuple[Map, ...]
    positions: Mapping[int, int]
    pyramid: dict[str, Any] | None = None
    reason: str = ''
    by_depth: bool = False


def choose(stages: Sequence[Map], old: Sequence[Map], read: Sequence[int]) -> Choice:
    """Choose by stride, or by depth where the old strides do not rise with it.

    Args:
        stages: all maps of the new backbone.
        old: the maps of the old one.
        read: positions of those that anything reads.

    Raises:
        UserError: a stride that no pyramid of these stages has.
    """
    wanted, reason = [old[i].stride for i in read], ''
    by_depth = _differ_in_depth_alone(old)
    if by_depth:
        depths = [32 / 2 ** (len(old) - 1 - i) for i in range(len(old))]
        wanted = [depths[i] for i in read]
        reason = f'strides {listed(m.stride for m in old)} become, by depth, {listed(depths)}'
    distinct = sorted({*wanted})
    positions = {i: distinct.index(stride) for i, stride in zip(read, wanted, strict=True)}
    have = [m.stride for m in stages]
    rising = distinct == wanted
    if rising and {*distinct} <= {*have} and distinct[-1] == have[-1]:
        chosen = tuple(have.index(stride) for stride in distinct)
        given = tuple(stages[i] for i in chosen)
        return Choice(chosen, given, positions, reason=reason, by_depth=by_depth)
    if not rising:
        why = f'a pyramid gives strides {listed(distinct)}, whose maps the old backbone had fused'
    elif {*distinct} <= {*have}:
        why = f'a pyramid lets all stages count for strides {listed(distinct)}'
    else:
        why = f'a pyramid makes strides {listed(distinct)} of {listed(have)}'
    reason = '; '.join(filter(None, (reason, why)))
    first = min(sum(stride < distinct[0] for stride in have), len(have) - 1)
    chosen = tuple(range(first, len(stages)))
    least, most = WIDTHS
    width = max(least, min(most, max(old[i].channels for i in read)))
    given = tuple(Map(width, stride) for stride in distinct)
    pyramid = pyramid_of([stages[i] for i in chosen], width, distinct)
    return Choice(chosen, given, positions, pyramid, reason, by_depth)


def _differ_in_depth_alone(maps: Sequence[Map]) -> bool:
    """Whether some have the same stride, as those of dilated networks and plain transformers.

    Maps that a network has fused do too, but have fewer channels the more went into them.
    """
    strides, channels = ([m[i] for m in maps] for i in (1, 0))
    return len({*strides}) < len(maps) and all(v == sorted(v) for v in (strides, channels))


def pyramid_of(stages: Sequence[Map], width: int, wanted: Sequence[float]) -> dict[str, Any]:
    """Config of a neck with levels of ``wanted`` strides, finest first.

    Raises:
        UserError: the strides of ``stages`` do not double to them.
    """
    have = [m.stride for m in stages]
    finer = max(0, math.ceil(math.log2(have[0] / wanted[0])))
    levels = [have[0] / 2**i for i in range(finer, 0, -1)] + have
    while levels[-1] < wanted[-1]:
        levels.append(2 * levels[-1])
    if not {*wanted} <= {*levels}:
        raise UserError(
            f'maps of strides {listed(wanted)}, which heads or neck of the old backbone read, '
            f'cannot be made of those that the new one has, {listed(have)}'
        )
    neck = dict(
        type='vitbackbones.TransposedConvFPN',
        in_channels=[m.channels for m in stages],
        out_channels=width,
        num_outs=len(levels),
        num_trans_convs=finer,
    )
    if list(wanted) != levels:
        neck['out_levels'] = [levels.index(stride) for stride in wanted]
    return neck


def in_place_of_fpn(
    neck: Any, stages: Sequence[Map], levels: Sequence[Map] | None
) -> tuple[tuple[int, ...], dict[str, Any]] | None:
    """The pyramid that makes the levels of an FPN of stages that begin too coarse for it.

    One that did so already is made anew, for stages that begin anywhere.

    Returns:
        the stages that it takes and its config; None if ``neck`` is another one, or does not need
        it.
    """
    kind = type_name(neck) if isinstance(neck, Mapping) else ''
    if not levels or kind not in ('FPN', 'TransposedConvFPN'):
        return None
    if len({m.channels for m in levels}) > 1 or (
        kind == 'FPN' and levels[0].stride >= stages[0].stride
    ):
        return None
    if any(2 * a.stride != b.stride for a, b in itertools.pairwise(levels)):
        return None
    taken = tuple(i for i, m in enumerate(stages) if m.stride >= levels[0].stride)
    strides = [m.stride for m in levels]
    return taken, pyramid_of([stages[i] for i in taken], levels[0].channels, strides)


def is_pyramid_of_tokens(maps: Sequence[Map], levels: Sequence[Map]) -> bool:
    """Whether a neck makes levels of different strides out of the equal maps of a plain ViT."""
    if len(maps) < 2 or len({*maps}) > 1:
        return False
    strides = [m.stride for m in levels]
    return strides == sorted({*strides}) and {*strides} <= {4, 8, 16, 32}


def listed(strides: Any) -> str:
    """Strides in words."""
    return ', '.join(f'{stride:g}' for stride in strides)
