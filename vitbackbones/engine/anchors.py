"""Whether the anchors of a head match the objects of the training images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .networks import Network, heads_of

#: As many objects are enough for a share.
OBJECTS = 200

#: Up to this share of unmatched objects nothing is said: with the anchors of every published
#: detector a few of COCO's smallest objects stay without.
SHARE = 0.1


def unmatched_objects(network: Network, samples: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Objects of ``samples`` (augmented, of mmdet's format) that match none of the anchors.

    Only for heads that choose anchors by their overlap alone, as RPN and SSD do.
    """
    heads = [(place, head, bar) for place, head in heads_of(network.owner) if (bar := _bar(head))]
    if not heads:
        return
    boxes, sizes, images = _objects(samples)
    if not len(boxes):
        return
    for place, head, bar in heads:
        generator = head.prior_generator
        missed = boxes[best_overlap(boxes, sizes, generator) < bar]
        share = len(missed) / len(boxes)
        if share <= SHARE:
            continue
        side = _sides(missed).median().item()
        own = torch.cat([_sides(base.cpu()) for base in generator.base_anchors])
        smaller = side < own.min().item()
        yield (
            f'{network.path}.{place}: {share:.0%} of {len(boxes)} objects in {images} training '
            f'images, as augmented, match no anchor (overlap below {bar:g}) and are not learned '
            f'from: their boxes have sides of {side:.0f} pixels (median), the anchors of '
            f'{own.min().item():.0f} to {own.max().item():.0f}; set '
            f'{"smaller" if smaller else "other"} anchor_generator.scales or ratios, or '
            f'{"larger" if smaller else "other"} images in the pipeline'
        )


def best_overlap(boxes: Tensor, sizes: Tensor, generator: Any) -> Tensor:
    """The largest overlap (IoU) of each box with an anchor, (N,).

    Overlap falls with the distance of the centres in x and y, so that of every base anchor only the
    one at the nearest place counts.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2 in pixels.
        sizes: (N, 2), width and height of the image of each.
        generator: has ``base_anchors``, (A, 4) for each map, and ``strides``, (x, y) of each.
    """
    best = boxes.new_zeros(len(boxes))
    for base, stride in zip(generator.base_anchors, generator.strides, strict=True):
        base = base.to(boxes)  # (A, 4)
        step = boxes.new_tensor(stride if isinstance(stride, (list, tuple)) else [stride] * 2)
        last = (sizes / step).ceil() - 1  # (N, 2)
        distance = _centres(boxes)[:, None] - _centres(base)  # (N, A, 2)
        cell = torch.minimum((distance / step).round().clamp(min=0), last[:, None])
        anchors = base + (cell * step).repeat(1, 1, 2)  # (N, A, 4)
        best = torch.maximum(best, _overlap(boxes[:, None], anchors).amax(dim=1))
    return best


def _bar(head: Any) -> float | None:
    """The overlap that an object needs with an anchor for one to be taught it; None: no bar."""
    assigner: Any = getattr(head, 'assigner', None)
    generator = getattr(head, 'prior_generator', None)
    # Guided anchors move, and what assigners of their kind measure is not one anchor's overlap.
    guided = hasattr(head, 'approx_anchor_generator')
    if type(assigner).__name__ != 'MaxIoUAssigner' or guided:
        return None
    if not hasattr(generator, 'base_anchors'):
        return None
    bar = assigner.pos_iou_thr
    if assigner.match_low_quality:
        bar = min(bar, assigner.min_pos_iou)
    return float(bar)


def _objects(samples: Iterable[dict[str, Any]]) -> tuple[Tensor, Tensor, int]:
    """Boxes (N, 4) of up to :data:`OBJECTS` objects, sizes (N, 2) of their images, and how many."""
    boxes, sizes, count, images = [torch.zeros(0, 4)], [torch.zeros(0, 2)], 0, 0
    for sample in samples:
        annotation: Any = sample.get('data_samples')
        own: Any = getattr(getattr(annotation, 'gt_instances', None), 'bboxes', None)
        own = getattr(own, 'tensor', own)
        if not isinstance(own, Tensor) or own.ndim != 2 or own.shape[1] != 4:
            break  # of another task, or rotated
        height, width = annotation.img_shape[:2]
        boxes.append(own.float())
        sizes.append(torch.tensor([[float(width), float(height)]]).expand(len(own), 2))
        count, images = count + len(own), images + 1
        if count >= OBJECTS:
            break
    return torch.cat(boxes), torch.cat(sizes), images


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _sides(boxes: Tensor) -> Tensor:
    """Of squares of the same area."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1).sqrt()


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes, of whatever shape they broadcast to."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    both = shared.prod(dim=-1)
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(dim=-1) for x in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6)
