"""Random weights with which a model finds something: its last layers, scaled and shifted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbackbones.deploy.reference import detections
from vitbackbones.tasks import Task, task_of_built

#: Of boxes that weights should find, at least and at most.
FEW, MANY = 50, 300


@torch.no_grad()
def enliven(model: Any, images: Tensor) -> int:
    """Let a model with random weights find something: scale and shift its last layers.

    Args:
        images: (1, 3, H, W) uint8 in R, G, B; for a segmentor its labels should not be one.

    Returns:
        How many boxes it finds in the first, from FEW to MANY if that can be; of a segmentor or
        classifier 0. A model with other heads than ours stays as it is.
    """
    task = task_of_built(model)
    if task is Task.CLASSIFICATION:
        return 0
    if not _has_known_heads(model):
        segments = task is Task.SEGMENTATION
        return 0 if segments else len(detections(model, images[:1]).boxes)
    torch.manual_seed(0)
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    maps = model.extract_feat((images[:1].float() - mean) / std)
    if task is Task.SEGMENTATION:
        last = model.decode_head.conv_seg
        _rescale(last, lambda: model.decode_head(maps), 3.0)
        last.bias.sub_(model.decode_head(maps).mean((0, 2, 3)))  # so that no class is ahead
        return 0
    if hasattr(model, 'rpn_head'):
        head = model.rpn_head
        _rescale(head.rpn_cls, lambda: _flat(head(maps)[0]), 1.5)
        _rescale(head.rpn_reg, lambda: _flat(head(maps)[1]), 0.3)
        layers = _enliven_boxes(model, maps)
    else:
        head = model.bbox_head
        _rescale(head.retina_cls, lambda: _flat(head(maps)[0]), 1.0)
        _rescale(head.retina_reg, lambda: _flat(head(maps)[1]), 1.0)
        layers = [head.retina_cls]
    low, high = -12.0, 12.0
    for _ in range(12):  # the more the classes are preferred, the more boxes
        middle = (low + high) / 2
        _prefer(layers, middle, background=hasattr(model, 'rpn_head'))
        found = len(detections(model, images[:1]).boxes)
        if found >= FEW:
            high = middle
        else:
            low = middle
        _prefer(layers, -middle, background=hasattr(model, 'rpn_head'))
    _prefer(layers, high, background=hasattr(model, 'rpn_head'))
    return len(detections(model, images[:1]).boxes)


def vary_norms(model: nn.Module) -> nn.Module:
    """Give every BatchNorm random statistics, scales and shifts, and evaluate.

    A new one changes nothing in evaluation.
    """
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                if norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.normal_(std=0.3)
                    norm.running_var.uniform_(0.5, 2)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5)
                    norm.bias.normal_(std=0.3)
    return model.eval()


def _has_known_heads(model: Any) -> bool:
    if task_of_built(model) is Task.SEGMENTATION:
        return hasattr(model.decode_head, 'conv_seg')
    if not hasattr(model, 'rpn_head'):
        return hasattr(getattr(model, 'bbox_head', None), 'retina_cls')
    heads = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    heads = heads if isinstance(heads, nn.ModuleList) else [heads]
    names = ('fc_cls', 'fc_reg')
    return hasattr(model.rpn_head, 'rpn_cls') and all(hasattr(h, n) for h in heads for n in names)


def _enliven_boxes(model: Any, maps: Any) -> list[nn.Module]:
    roi = model.roi_head
    several = isinstance(roi.bbox_head, nn.ModuleList)
    heads = list(roi.bbox_head) if several else [roi.bbox_head]
    readers = list(roi.bbox_roi_extractor) if several else [roi.bbox_roi_extractor]
    boxes = torch.tensor([[0.0, 3, 5, 40, 50], [0, 20, 30, 90, 60], [0, 50, 8, 70, 90]])
    # Trained cascades hardly move a box; random heads in a row that do let roundings grow.
    move = 0.1 if several else 0.5
    for head, reader in zip(heads, readers, strict=True):
        features = reader(maps[: reader.num_inputs], boxes)
        _rescale(head.fc_cls, lambda: head(features)[0], 2.0)  # noqa: B023
        _rescale(head.fc_reg, lambda: head(features)[1], move)  # noqa: B023
    if roi.with_mask:
        masks = list(roi.mask_head) if several else [roi.mask_head]
        reader = (list(roi.mask_roi_extractor) if several else [roi.mask_roi_extractor])[0]
        features = reader(maps[: reader.num_inputs], boxes)
        for mask in masks:
            _rescale(mask.conv_logits, lambda: mask(features), 2.0)  # noqa: B023
    return [head.fc_cls for head in heads]


def _flat(outputs: Any) -> Tensor:
    return torch.cat([each.flatten() for each in outputs])


def _rescale(layer: Any, outputs: Callable[[], Tensor], deviation: float) -> None:
    """Let what a layer puts out have no mean and this deviation."""
    layer.weight.normal_()
    layer.bias.zero_()
    values = outputs()
    layer.weight.mul_(deviation / values.std())
    layer.bias.sub_(outputs().mean())


def _prefer(layers: list[Any], shift: float, *, background: bool) -> None:
    for layer in layers:
        if background:
            layer.bias[-1] -= shift
        else:
            layer.bias += shift
