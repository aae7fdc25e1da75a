"""Two operators that detectors need and torch does not have, and what they are in ONNX.

Shapes: N boxes (x1, y1, x2, y2), K kept ones, C channels, h x w cells of a RoI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Added to the size of a box over the finest scale before its level is chosen, as mmdet does.
LEVEL_EPSILON = 1e-6


@dataclass(frozen=True)
class Rule:
    """Which boxes stay.

    Attributes:
        overlap: a box that overlaps a better one of its group by more goes (IoU).
        score: boxes need more than it.
        most: so many stay, the best.
        least: width and height need more than it, in pixels; None for any.
    """

    overlap: float
    score: float
    most: int
    least: float | None = None

    def keep(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        """Indices (K,) of the boxes (N, 4) that stay, best first."""
        least = -1.0 if self.least is None else float(self.least)
        return keep_boxes(boxes, scores, groups, self.overlap, self.score, self.most, least)

    def large(self, boxes: Tensor) -> Tensor:
        """Whether boxes (N, 4) are large enough: (N,)."""
        if self.least is None:
            return torch.ones_like(boxes[:, 0], dtype=torch.bool)
        return (boxes[:, 2:] - boxes[:, :2] > self.least).all(dim=1)


def shifted(boxes: Tensor, groups: Tensor) -> Tensor:
    """Boxes (N, 4) where none meets one of another group.

    Far from the origin single precision is coarse, which decides where overlaps are about the
    limit: mmcv's NMS shifts boxes in just this way, and so must whatever is to agree with it.
    """
    step = boxes.max() + 1 if len(boxes) else boxes.new_zeros(())
    return boxes + (groups.to(boxes) * step)[:, None]


@torch.library.custom_op('vitbackbones::keep_boxes', mutates_args=())
def keep_boxes(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    overlap: float,
    score: float,
    most: int,
    least: float,
) -> Tensor:
    """Indices (K,) of those that :class:`Rule` keeps; ``least`` below 0 stands for any size."""
    from mmcv.ops import nms

    fit = scores > score
    if least >= 0:
        fit &= (boxes[:, 2:] - boxes[:, :2] > least).all(dim=1)
    index = fit.nonzero()[:, 0]
    if len(index) == 0:
        return index
    _, kept = nms(shifted(boxes[index], groups[index]), scores[index], overlap)
    return index[kept[:most]]


@keep_boxes.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    overlap: float,
    score: float,
    most: int,
    least: float,
) -> Tensor:
    number = torch.library.get_ctx().new_dynamic_size(min=0, max=most)
    return boxes.new_empty((number,), dtype=torch.int64)


@torch.library.custom_op('vitbackbones::roi_align', mutates_args=())
def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[float],
    finest: float,
    height: int,
    width: int,
    samples: int,
) -> Tensor:
    """Maps (1, C, H, W) of several strides, each box (N, 4) from one level -> (N, C, h, w).

    Args:
        finest: boxes with a side below twice of it, in pixels, are read from the first map, below
            four times from the second, and so on; 0 with one map.
        samples: in a cell, along each side; 0 for as many as the map has positions there.
    """
    from mmcv.ops import roi_align as align

    numbered = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    out = boxes.new_zeros((len(boxes), maps[0].shape[1], height, width))
    level = _levels(boxes, finest, len(maps))
    for i, (map_, stride) in enumerate(zip(maps, strides, strict=True)):
        index = (level == i).nonzero()[:, 0]
        if len(index):
            size = (height, width)
            out[index] = align(map_, numbered[index], size, 1 / stride, samples, 'avg', True)
    return out


def _levels(boxes: Tensor, finest: float, number: int) -> Tensor:
    """The map of each box, by comparing: a logarithm is rounded otherwise by every runtime."""
    level = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if number > 1:
        sides = boxes[:, 2:] - boxes[:, :2]
        size = torch.sqrt(sides[:, 0] * sides[:, 1]) / finest + LEVEL_EPSILON
        for i in range(1, number):
            level += size >= 2.0**i
    return level


@roi_align.register_fake
def _(
    maps: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[float],
    finest: float,
    height: int,
    width: int,
    samples: int,
) -> Tensor:
    return boxes.new_empty((boxes.shape[0], maps[0].shape[1], height, width))


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch's exporter writes for the operators, in those of ONNX's opset 18."""
    from onnxscript import opset18 as op

    def number(value: int) -> Any:
        return op.Constant(value_int=value)

    def numbers(*values: int) -> Any:
        return op.Constant(value_ints=values)

    def real(value: float) -> Any:
        return op.Constant(value_float=value)

    def reals(*values: float) -> Any:
        return op.Constant(value_floats=values)

    def places(condition: Any) -> Any:
        """Indices of what is true in a vector."""
        return op.Squeeze(op.NonZero(condition), numbers(0))

    def sides(boxes: Any) -> Any:
        """Width and height: (N, 2)."""
        ends = op.Slice(boxes, numbers(2), numbers(4), numbers(1))
        return op.Sub(ends, op.Slice(boxes, numbers(0), numbers(2), numbers(1)))

    def keep(
        boxes: Any,
        scores: Any,
        groups: Any,
        overlap: float,
        score: float,
        most: int,
        least: float,
    ) -> Any:
        fit = op.Greater(scores, real(score))
        if least >= 0:
            smaller = op.ReduceMin(sides(boxes), numbers(1), keepdims=0)
            fit = op.And(fit, op.Greater(smaller, real(least)))
        index = places(fit)
        box = op.Gather(boxes, index)
        # The greatest coordinate of none is asked for where there is no box.
        every = op.Concat(op.Reshape(box, numbers(-1)), reals(0.0), axis=0)
        step = op.Add(op.ReduceMax(every, keepdims=0), real(1.0))
        shift = op.Mul(op.Cast(op.Gather(groups, index), to=FLOAT), step)
        box = op.Add(box, op.Unsqueeze(shift, numbers(1)))
        kept = op.NonMaxSuppression(
            op.Unsqueeze(box, numbers(0)),
            op.Unsqueeze(op.Gather(scores, index), numbers(0, 1)),
            numbers(most),
            reals(overlap),
        )  # (K, 3): image, class, box
        return op.Gather(index, op.Gather(kept, number(2), axis=1))

    def align(
        maps: Sequence[Any],
        boxes: Any,
        strides: Sequence[float],
        finest: float,
        height: int,
        width: int,
        samples: int,
    ) -> Any:
        def read(map_: Any, stride: float, box: Any, image: Any) -> Any:
            return op.RoiAlign(
                map_,
                box,
                image,
                coordinate_transformation_mode='half_pixel',
                mode='avg',
                output_height=height,
                output_width=width,
                sampling_ratio=samples,
                spatial_scale=1 / stride,
            )

        if len(maps) == 1:
            first = op.Gather(op.Shape(boxes), numbers(0))
            return read(maps[0], strides[0], boxes, op.Expand(number(0), first))
        extent = sides(boxes)
        area = op.Mul(op.Gather(extent, number(0), axis=1), op.Gather(extent, number(1), axis=1))
        size = op.Add(op.Div(op.Sqrt(area), real(finest)), real(LEVEL_EPSILON))
        parts, indices = [], []
        for i, (map_, stride) in enumerate(zip(maps, strides, strict=True)):
            # Each box is in one of the levels, one that is not a number in the first as well.
            at_least = op.GreaterOrEqual(size, real(2.0**i))
            beyond = op.GreaterOrEqual(size, real(2.0 ** (i + 1)))
            if i == 0:
                here = op.Not(beyond)
            elif i == len(maps) - 1:
                here = at_least
            else:
                here = op.And(at_least, op.Not(beyond))
            index = places(here)
            image = op.Mul(index, number(0))
            parts.append(read(map_, stride, op.Gather(boxes, index), image))
            indices.append(index)
        # Back into the order of the boxes, by the inverse of the permutation.
        index = op.Concat(*indices, axis=0)
        count = op.Squeeze(op.Shape(index), numbers(0))
        order = op.Range(number(0), count, number(1))
        inverse = op.ScatterElements(op.Mul(index, number(0)), index, order, axis=0)
        return op.Gather(op.Concat(*parts, axis=0), inverse)

    return {
        torch.ops.vitbackbones.keep_boxes.default: keep,
        torch.ops.vitbackbones.roi_align.default: align,
    }


#: ONNX's number for single precision.
FLOAT = 1
