"""What a whole model makes of an image first: order of axes and colours, mean, deviation, padding.

Shapes: B batch, H x W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.data.configs import iter_datasets
from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError

#: The data preprocessors whose computation stands here.
KNOWN = ('DetDataPreprocessor', 'SegDataPreProcessor')


@dataclass(frozen=True)
class Input:
    """How images come in: values from 0 to 255.

    Attributes:
        layout: 'chw' for (B, 3, H, W), 'hwc' for (B, H, W, 3).
        channels: the order of colours.
        dtype: their type.
    """

    layout: Literal['chw', 'hwc'] = 'chw'
    channels: Literal['rgb', 'bgr'] = 'rgb'
    dtype: Literal['uint8', 'float32'] = 'uint8'

    @classmethod
    def of_words(cls, layout: Any, channels: Any, *, in_floats: bool) -> Input:
        """As options say; None stands for what is usual."""
        dtype: Literal['uint8', 'float32'] = 'float32' if in_floats else 'uint8'
        return cls(layout or 'chw', channels or 'rgb', dtype)

    def of(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in R, G, B as this input wants them."""
        images = images if self.channels == 'rgb' else images.flip(1)
        images = images if self.layout == 'chw' else images.permute(0, 2, 3, 1)
        return images.to(getattr(torch, self.dtype)).contiguous()


@dataclass(frozen=True)
class Normalising:
    """What the config's data preprocessor does to an image when it is tested.

    Attributes:
        mean: of R, G, B.
        std: of R, G, B.
        bgr: whether the model takes B, G, R.
        divisor: H and W are padded to multiples of it, at the right and below.
        padding: with this value, after the rest.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    divisor: int
    padding: float

    @classmethod
    def of(cls, cfg: Config) -> Normalising:
        """That of a config.

        Raises:
            UserError: the config does something else, which is named.
        """
        step = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        kind = type_name(step) if step else None
        if kind not in KNOWN:
            raise UserError(
                f'model.data_preprocessor is {kind}, which --part model does not know, only '
                f'{" and ".join(KNOWN)}'
            )
        _check_loading(cfg)
        if kind == 'SegDataPreProcessor':
            padding = _test_padding(step)
            divisor, value = padding.get('size_divisor') or 1, step.get('pad_val', 0)
        else:
            divisor, value = step.get('pad_size_divisor', 1), step.get('pad_value', 0)
        bgr = not (step.get('bgr_to_rgb') or step.get('rgb_to_bgr'))
        mean = _three(step.get('mean') or [0.0])
        std = _three(step.get('std') or [1.0])
        return cls(
            mean=mean[::-1] if bgr else mean,
            std=std[::-1] if bgr else std,
            bgr=bgr,
            divisor=int(divisor),
            padding=float(value),
        )


def _three(values: Sequence[float]) -> tuple[float, ...]:
    """One value for every channel, or one each."""
    return tuple(float(value) for value in (list(values) * 3 if len(values) == 1 else values))


def _test_padding(step: Mapping[str, Any]) -> Mapping[str, Any]:
    padding = step.get('test_cfg') or {}
    if padding.get('size') is not None:
        raise UserError(
            f'model.data_preprocessor.test_cfg.size={padding["size"]} pads images to one size, '
            'which --part model does not do: use size_divisor, or no test_cfg'
        )
    return padding


def _check_loading(cfg: Config) -> None:
    """Images must come in three colours, as mmcv loads them unless told otherwise: B, G, R."""
    whole = (cfg.get('test_dataloader') or {}).get('dataset')
    for dataset in iter_datasets(whole) if whole else ():
        for step in dataset.get('pipeline') or ():
            colour = step.get('color_type', 'color') if type_name(step) in LOADING else 'color'
            if not str(colour).startswith('color'):
                raise UserError(
                    f'the test pipeline loads images with color_type={colour!r}: --part model '
                    'takes images of three colours'
                )


LOADING = ('LoadImageFromFile', 'LoadImageFromNDArray')


class Pixels(nn.Module):
    """From images as :class:`Input` says to what the model's backbone takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, given: Input, wanted: Normalising) -> None:
        super().__init__()
        self.given = given
        self.wanted = wanted
        order = -1 if wanted.bgr else 1
        for name, values in (('mean', wanted.mean), ('std', wanted.std)):
            column = torch.tensor(values[::order]).reshape(1, 3, 1, 1)
            self.register_buffer(name, column, persistent=False)

    def size(self, image: Tensor) -> tuple[int, int]:
        """Height and width of images, before they are padded."""
        height, width = image.shape[1:3] if self.given.layout == 'hwc' else image.shape[2:]
        return height, width

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) or (B, H, W, 3) -> (B, 3, H', W'), multiples of the divisor."""
        height, width = self.size(image)
        x = image.permute(0, 3, 1, 2) if self.given.layout == 'hwc' else image
        x = x.to(self.mean.dtype)
        if (self.given.channels == 'bgr') != self.wanted.bgr:
            x = x[:, [2, 1, 0]]
        x = (x - self.mean) / self.std
        if (step := self.wanted.divisor) > 1:
            below = (height + step - 1) // step * step - height
            right = (width + step - 1) // step * step - width
            x = F.pad(x, (0, right, 0, below), value=self.wanted.padding)
        return x
