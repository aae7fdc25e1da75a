"""Boxes that a head proposes, decoded and cut off at the image, before any is suppressed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError

from .operators import Rule
from .refusing import refuse

#: Of the logarithm by which a side changes: mmdet's ``wh_ratio_clip``.
LARGEST_CHANGE = abs(math.log(16 / 1000))

#: Options of mmcv's NMS that are read here.
NMS_OPTIONS = {'type', 'iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr'}


class Candidates(NamedTuple):
    """Boxes (N, 4), their scores (N,) and groups (N,): those of one group suppress each other.

    ``sure`` (N,) says which of them are there however numbers are rounded; None if nobody asked.
    """

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    sure: Tensor | None = None


class Best(NamedTuple):
    """The best of many scores: values (K,), their places (K,) and, if asked, which are sure."""

    scores: Tensor
    places: Tensor
    sure: Tensor | None


def best(scores: Tensor, most: int, margin: float | None = None) -> Best:
    """At most ``most`` of the scores (N,), best first.

    Args:
        most: 0 or less for all.
        margin: the scores are off by so much at most: take all that may be among the best.
    """
    number = scores.shape[0]
    taken = torch.sym_min(most, number) if most > 0 else number
    values, index = torch.topk(scores, taken)
    if margin is None:
        return Best(values, index, None)
    if taken == number:
        return Best(values, index, torch.ones_like(index, dtype=torch.bool))
    near = (scores >= values[-1] - 2 * margin).nonzero()[:, 0]
    return Best(scores[near], near, scores[near] > values[-1] + 2 * margin)


def check_coder(coder: Any, path: str) -> None:
    """Boxes must be coded as offsets and logarithms of sides.

    Raises:
        UserError: they are coded otherwise.
    """
    known = 'DeltaXYWHBBoxCoder'
    if type(coder).__name__ != known:
        raise refuse(f'{path}.bbox_coder', type(coder).__name__, known)
    for option in ('add_ctr_clamp', 'use_box_type'):
        if getattr(coder, option, False):
            raise refuse(f'{path}.bbox_coder.{option}', True, 'False')


def decode(coder: Any, priors: Tensor, deltas: Tensor, height: int, width: int) -> Tensor:
    """Boxes (N, 4) out of what was predicted for priors (N, 4), cut off at an image H x W.

    mmdet's own branches on the number of boxes, which nothing knows when a program is traced.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    sides = priors[:, 2:] - priors[:, :2]
    centre = (priors[:, :2] + priors[:, 2:]) * 0.5 + sides * deltas[:, :2]
    half = sides * deltas[:, 2:].clamp(-LARGEST_CHANGE, LARGEST_CHANGE).exp() * 0.5
    x1, y1 = (centre - half).unbind(1)
    x2, y2 = (centre + half).unbind(1)
    if coder.clip_border:
        x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
        y1, y2 = y1.clamp(0, height), y2.clamp(0, height)
    return torch.stack([x1, y1, x2, y2], dim=1)


def read_rule(cfg: Mapping[str, Any], path: str, *, score: float) -> tuple[Rule, bool]:
    """Which boxes a part of ``test_cfg`` lets stay, and whether those of all classes compete.

    Args:
        path: of that part, for messages.
        score: boxes need more than it.

    Raises:
        UserError: it suppresses boxes in another way.
    """
    nms = cfg.get('nms')
    if not isinstance(nms, Mapping) or type_name(nms) not in ('', 'nms'):
        kind = nms.get('type') if isinstance(nms, Mapping) else nms
        raise refuse(f'{path}.nms', kind, "type='nms'")
    if others := sorted({*nms} - NMS_OPTIONS):
        raise UserError(
            f'{path}.nms.{others[0]}={nms[others[0]]}: --part model knows no such option of NMS'
        )
    most = cfg.get('max_per_img', -1)
    if most < 1:
        raise refuse(f'{path}.max_per_img', most, 'a positive number')
    least = cfg.get('min_bbox_size', -1)
    rule = Rule(
        overlap=float(nms.get('iou_threshold', nms.get('iou_thr'))),
        score=float(score),
        most=int(most),
        least=float(least) if least >= 0 else None,
    )
    return rule, bool(nms.get('class_agnostic', False))
