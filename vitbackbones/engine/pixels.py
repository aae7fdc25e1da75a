"""Whether a backbone gets the pixels that its published weights were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .networks import Network, unwrapped

#: Of all published weights: ImageNet's statistics, of red, green and blue.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

#: Two colours, as blue, green and red: they tell order, mean and deviation apart.
COLOURS = ((10.0, 60.0, 110.0), (240.0, 180.0, 120.0))

#: Means that differ by a few grey levels do not matter; another order of channels does.
TOLERANCE = 0.2


def other_pixels(network: Network, model: Any) -> Iterator[str]:
    """Pixels of another order or scale than those that the loaded weights know.

    Two images of one colour are sent through the model's own preprocessor, whatever its kind.
    """
    backbone = network.backbone
    if not (backbone.has_loaded and backbone.init_cfg) or backbone.in_channels != len(MEAN):
        return
    for owner, path in ((network.owner, network.path), (unwrapped(model), 'model')):
        preprocessor = getattr(owner, 'data_preprocessor', None)
        preprocessor = getattr(preprocessor, 'data_preprocessor', preprocessor)  # of many branches
        if preprocessor is None:
            continue
        pairs = [(_processed(preprocessor, colour), _expected(colour)) for colour in COLOURS]
        for got, wanted in pairs:
            if got is not None and any(
                abs(a - b) > TOLERANCE for a, b in zip(got, wanted, strict=True)
            ):
                yield (
                    f'{path}.data_preprocessor ({type(preprocessor).__name__}) gives '
                    f'{network.source} other pixels than its published weights were trained on: '
                    f'(B, G, R) = {_text(COLOURS[0], 0)} arrives as {_text(pairs[0][0] or got)}, '
                    f'not as {_text(pairs[0][1])}; set mean={list(MEAN)}, std={list(STD)}, '
                    'bgr_to_rgb=True'
                )
                return
        return


def _expected(colour: tuple[float, ...]) -> list[float]:
    return [(x - m) / s for x, m, s in zip(reversed(colour), MEAN, STD, strict=True)]


def _processed(preprocessor: Any, colour: tuple[float, ...]) -> list[float] | None:
    image = torch.tensor(colour).to(torch.uint8)[:, None, None].expand(3, 32, 32).clone()
    try:
        result = preprocessor(dict(inputs=[image], data_samples=None), False)
        inputs = result['inputs']
    except Exception:  # of anyone's, for data of another form: nothing can be told of it
        return None
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] != len(colour):
        return None
    return [float(x) for x in inputs[0, :, 0, 0]]


def _text(values: Any, digits: int = 2) -> str:
    return '(' + ', '.join(f'{value:.{digits}f}' for value in values) + ')'
