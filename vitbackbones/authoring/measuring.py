"""What a backbone and a neck make of an empty image: the maps that come out of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from vitbackbones.engine.trial import no_trace, read_by, takes_maps_alone

#: Sides of the empty image, in pixels. The first does for all that take any; SSD and some plain
#: transformers take one alone.
SIDES = (256, 300, 512)


class Map(NamedTuple):
    """A map of C channels, and how many pixels of the image one of its positions stands for."""

    channels: int
    stride: float

    def __str__(self) -> str:
        return f'{self.channels}@{self.stride:g}'


@dataclass(frozen=True)
class Measured:
    """What comes out of a network.

    Attributes:
        side: of the image that it was measured on.
        maps: of the backbone.
        levels: of the neck; None if there is none, or if it gives no list of maps.
        read: positions of the maps that the levels depend on; all if there are no levels.
        trouble: why the neck could not be run, '' if it was.
    """

    side: int
    maps: tuple[Map, ...]
    levels: tuple[Map, ...] | None
    read: tuple[int, ...]
    trouble: str = ''


class MeasuringError(Exception):
    """A network that cannot be built or run here, or that gives no list of maps; says why."""


def words(maps: Sequence[Map]) -> str:
    """``256@4 512@8``: channels at strides."""
    return ' '.join(map(str, maps))


def measure(owner: Mapping[str, Any], scope: str) -> Measured:
    """Build the backbone and the neck of a part of a model's config, and run them.

    Args:
        owner: has the keys ``backbone`` and, perhaps, ``neck``.
        scope: where types are looked up.

    Raises:
        MeasuringError: the backbone cannot be built, or gives no list of maps.
    """
    backbone = owner['backbone']
    net = _built(backbone, scope)
    own = backbone.get('img_size')
    own = own[0] if isinstance(own, (list, tuple)) else own
    failures: list[str] = []
    without_neck = None
    for side in dict.fromkeys([SIDES[0], *([own] if isinstance(own, int) else []), *SIDES[1:]]):
        try:
            with no_trace(net), torch.no_grad():
                outputs = net(torch.zeros(1, backbone.get('in_channels', 3), side, side))
        except Exception as error:  # a network of anyone's: it may not take images of this size
            failures.append(_first_line(error))
            continue
        maps = _as_maps(outputs, side)
        if maps is None:
            raise MeasuringError('it gives no list of maps')
        levels = None
        if owner.get('neck') is not None:
            try:
                levels, read = measure_neck(owner['neck'], scope, maps, side)
            except MeasuringError as error:  # at another size, perhaps
                every = tuple(range(len(maps)))
                without_neck = without_neck or Measured(side, maps, None, every, str(error))
                continue
        return Measured(side, maps, levels, read if levels else tuple(range(len(maps))))
    if without_neck is None:
        raise MeasuringError(failures[0])
    return without_neck


def measure_neck(
    neck: Any, scope: str, maps: Sequence[Map], side: int
) -> tuple[tuple[Map, ...] | None, tuple[int, ...]]:
    """Build a neck and run it on empty maps.

    Returns:
        its levels, None if what comes out is no list of maps or more than maps go in; and the
        positions of the maps that they depend on.

    Raises:
        MeasuringError: it cannot be built, or does not take these maps.
    """
    built = _built(neck, scope)
    if not takes_maps_alone(built):
        return None, tuple(range(len(maps)))
    inputs = [
        torch.zeros(1, c, *[math.ceil(side / stride)] * 2, requires_grad=True) for c, stride in maps
    ]
    try:
        with no_trace(built):
            outputs = built(tuple(x.clone() for x in inputs))
    except Exception as error:  # a neck of anyone's
        raise MeasuringError(_first_line(error)) from error
    levels = _as_maps(outputs, side)
    if levels is None:
        return None, tuple(range(len(maps)))
    used = read_by([outputs] if isinstance(outputs, Tensor) else outputs)
    return levels, tuple(i for i, x in enumerate(inputs) if id(x) in used)


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.partition('\n')[0]


def _as_maps(outputs: Any, side: int) -> tuple[Map, ...] | None:
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    if not isinstance(outputs, (list, tuple)):
        return None
    if not all(isinstance(x, Tensor) and x.ndim == 4 for x in outputs):
        return None
    return tuple(Map(x.shape[1], _stride(side / x.shape[3])) for x in outputs)


def _stride(ratio: float) -> float:
    """Where a side is no multiple of it, a stride comes out a little too small."""
    power = 2.0 ** round(math.log2(ratio))
    return power if abs(ratio / power - 1) < 0.1 else ratio


def _built(cfg: Any, scope: str) -> nn.Module:
    """A part of a model without its weights.

    Raises:
        MeasuringError: that fails.
    """
    cfg = copy.deepcopy(cfg)
    _without_weights(cfg)
    try:
        with ROOT_MODELS.switch_scope_and_registry(scope) as registry:
            return registry.build(cfg)
    except Exception as error:  # a network of anyone's, or one of a package that is not there
        raise MeasuringError(_first_line(error)) from error


def _without_weights(node: Any) -> None:
    """Some networks fetch their weights while they are built."""
    if isinstance(node, (dict, ConfigDict)):
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
            node['init_cfg'] = None
        if 'pretrained' in node:
            node['pretrained'] = False if isinstance(node['pretrained'], bool) else None
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _without_weights(part)
