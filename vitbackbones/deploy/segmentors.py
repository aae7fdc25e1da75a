"""Segmentors of mmseg: seven heads, tested on whole images.

Shapes: B batch, H x W image, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pixels import Pixels
from .refusing import refuse, require_methods

HEADS = (
    *('UPerHead', 'FPNHead', 'FCNHead', 'PSPHead', 'ASPPHead', 'DepthwiseSeparableASPPHead'),
    'SegformerHead',
)


class Segmentor(nn.Module):
    """Images -> labels (B, H, W) int64, or probabilities (B, C, H, W).

    With one channel they are those of the one class that is told from the rest.

    Attributes:
        threshold: from which probability on a pixel shows that class; None with several channels.
    """

    def __init__(self, model: Any, pixels: Pixels, *, probabilities: bool) -> None:
        """Take a segmentor of mmseg's over; layers of its heads are replaced.

        Raises:
            UserError: it, or a part of it, predicts in a way of its own.
        """
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        from mmseg.models.segmentors import EncoderDecoder

        super().__init__()
        ways = ('predict', 'inference', 'encode_decode', 'whole_inference', 'extract_feat')
        require_methods(model, 'model', EncoderDecoder, *ways, 'postprocess_result')
        kind = type(model.decode_head).__name__
        if kind not in HEADS:
            raise refuse('model.decode_head', kind, ', '.join(HEADS))
        of_head = ('predict', 'predict_by_feat', 'cls_seg', '_transform_inputs')
        require_methods(model.decode_head, 'model.decode_head', BaseDecodeHead, *of_head)
        mode = (model.test_cfg or {}).get('mode', 'whole')
        if mode != 'whole':
            raise refuse(
                'model.test_cfg.mode',
                f'{mode!r}, which counts windows by the size of the image',
                "'whole' (--cfg-options model.test_cfg.mode=whole)",
            )
        _replace_layers(model.decode_head)
        self.model = model
        self.pixels = pixels
        self.probabilities = probabilities
        self.outputs = ('probabilities',) if probabilities else ('labels',)
        one = int(model.decode_head.out_channels) == 1
        self.threshold = float(model.decode_head.threshold) if one else None

    @property
    def largest_stride(self) -> int:
        return 1

    def scores(self, image: Tensor) -> Tensor:
        """What the head says of each class before any softmax or sigmoid: (B, C, H, W)."""
        height, width = self.pixels.size(image)
        x = self.pixels(image)
        logits = self.model.decode_head(self.model.extract_feat(x))
        corners = self.model.align_corners
        logits = F.interpolate(logits, x.shape[-2:], mode='bilinear', align_corners=corners)
        return logits[..., :height, :width] if self.pixels.wanted.divisor > 1 else logits

    def forward(self, image: Tensor) -> Tensor:
        scores = self.scores(image)
        if self.probabilities:
            return scores.softmax(1) if self.threshold is None else scores.sigmoid()
        if self.threshold is None:
            return scores.argmax(1)
        return (scores[:, 0].sigmoid() > self.threshold).to(torch.int64)


class AdaptivePooling(nn.Module):
    """Means over a grid of h x w windows of a map of any size, as two products of matrices.

    The windows' edges are whole numbers, which a program that is traced has to compute exactly.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            _means(length, parts, x) for length, parts in zip(x.shape[-2:], self.size, strict=True)
        )
        return rows @ x @ columns.transpose(0, 1)


def _means(length: int, parts: int, like: Tensor) -> Tensor:
    """(parts, length): a part goes from its edge, rounded down, to the next one, rounded up."""
    part = torch.arange(parts, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)[None]
    first = part * length // parts
    end = ((part + 1) * length + parts - 1) // parts
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class Enlarging(nn.Module):
    """A map of a whole number of times the height and width; mmseg's counts in real numbers."""

    def __init__(self, times: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.times = times
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = [side * self.times for side in x.shape[-2:]]
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def _replace_layers(module: nn.Module) -> None:
    """Put layers that can be traced for any size in the place of those that cannot."""
    from mmseg.models.utils import Upsample

    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            size = child.output_size
            height, width = size if isinstance(size, tuple) else (size, size)
            assert height is not None
            assert width is not None
            setattr(module, name, AdaptivePooling((height, width)))
        elif isinstance(child, Upsample) and _is_whole(child.scale_factor):
            setattr(
                module, name, Enlarging(int(child.scale_factor), child.mode, child.align_corners)
            )
        else:
            _replace_layers(child)


def _is_whole(factor: Any) -> bool:
    return isinstance(factor, float) and factor.is_integer()
