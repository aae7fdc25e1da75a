"""Grad-CAM: which places of a map speak for a prediction (Selvaraju et al., ICCV 2017).

A class activation map is the positive part of a weighed sum of a map's channels, the weights being
the gradient of what is explained, averaged over all places (the paper's equations 1 and 2). So it
is for the classes of a classifier and of a segmentor. A detection is of one place among many alike,
and such weights light up all of them: its weights are the gradient of each place (HiResCAM,
Draelos and Carin 2020, arXiv 2011.08891).

A score is explained by what it was before softmax or sigmoid, as is usual: where it is nearly 1, it
has no gradient that numbers of 32 bits could hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class KeptGradients(TorchFunctionMode):
    """Within it what is computed keeps its gradients, where code detaches it as well.

    The heads of mmdet detach what they predict of. Arrays are of values alone, as ever.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.detach:
            return args[0]
        if func in (Tensor.numpy, Tensor.__array__):
            args = (args[0].detach(), *args[1:])
        return func(*args, **(kwargs or {}))


#: Steps that make scores, and layers with weights, as autograd calls them.
SCORING = ('SoftmaxBackward0', 'SigmoidBackward0')
LAYERS = ('ConvolutionBackward0', 'AddmmBackward0', 'LinearBackward0', 'MmBackward0')


@contextmanager
def before_scoring(value: Tensor) -> Iterator[None]:
    """Within it gradients of a score are those of what softmax or sigmoid have made it of.

    They are looked for between the score and the last layers with weights: those further down are
    attention and gates, which keep their gradients.
    """
    todo: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
    with ExitStack() as hooks:
        while todo:
            node = todo.pop()
            if node is None or node in seen or node.name() in LAYERS:
                continue
            seen.add(node)
            if node.name() in SCORING:
                hooks.callback(node.register_hook(lambda _, outer: outer).remove)
            else:
                todo += [before for before, _ in node.next_functions]
        yield


@dataclass(frozen=True)
class Target:
    """One thing that a model predicts, to be explained.

    Attributes:
        number: of a detection, or of an image's class, by falling score, from 1; of a segmentor's
            class as in label maps.
        name: in words.
        values: scalars whose gradients tell: a score, or the four sides of a box.
        box: of a detection, (x1, y1, x2, y2) in pixels of the image file.
        score: whether the values are scores, see :func:`before_scoring`.
    """

    number: int
    name: str
    values: Sequence[Tensor]
    box: tuple[float, ...] | None = None
    score: bool = False


def activation_map(features: Tensor, gradient: Tensor, *, pooled: bool) -> Tensor:
    """(C, H, W) and the gradient at it -> (H, W), not negative.

    Args:
        pooled: whether places share the averaged gradient as weights, or each has its own.
    """
    weights = gradient.mean((1, 2), keepdim=True) if pooled else gradient
    return (weights * features).sum(0).relu()


def activation_maps(
    target: Target,
    maps: Mapping[int, Tensor],
    shown: Callable[[int, Tensor], Tensor] = lambda stage, seen: seen,
) -> dict[int, Tensor]:
    """{stage: (H, W) in [0, 1]} of a target, from the maps (1, C, H, W) it was computed of.

    Of several values, each has a map with the largest place at 1, and it is the largest of them.

    Args:
        shown: of the map (H, W) of a stage the places among which the largest is 1.
    """
    found: dict[int, list[Tensor]] = {stage: [] for stage in maps}
    for value in target.values:
        with before_scoring(value) if target.score else nullcontext():
            gradients = torch.autograd.grad(
                value, [*maps.values()], retain_graph=True, allow_unused=True
            )
        for (stage, features), gradient in zip(maps.items(), gradients, strict=True):
            if gradient is None:  # a stage that this head does not read
                found[stage].append(features.new_zeros(features.shape[2:]))
                continue
            seen = activation_map(features.detach()[0], gradient[0], pooled=target.box is None)
            most = shown(stage, seen).max().clamp(min=torch.finfo(seen.dtype).tiny)
            found[stage].append((seen / most).clamp(max=1))
    return {stage: torch.stack(several).amax(0) for stage, several in found.items()}


def detections(found: Any, classes: Sequence[str], score: float) -> tuple[list[Target], ...]:
    """Every detection from ``score`` on, by falling score: its score, and its box, to be explained.

    Args:
        found: mmdet's ``pred_instances``, whose scores and boxes were computed with gradients.
    """
    order = [int(i) for i in found.scores.argsort(descending=True) if found.scores[i] >= score]
    scores, boxes = [], []
    for number, i in enumerate(order, start=1):
        name = f'{classes[int(found.labels[i])]} {float(found.scores[i].detach()):.2f}'
        box = tuple(found.bboxes[i].tolist())
        scores.append(Target(number, name, [found.scores[i]], box, score=True))
        boxes.append(Target(number, name, [*found.bboxes[i]], box))
    return scores, boxes


def best_classes(
    logits: Tensor, scores: Tensor, classes: Sequence[str], score: float
) -> list[Target]:
    """Every class of an image from ``score`` on, by falling score, at least the best: its logit.

    Args:
        logits: (classes,) with gradients.
        scores: (classes,), what is predicted of them.
    """
    order = [int(i) for i in scores.argsort(descending=True)]
    order = order[: max(1, int((scores >= score).sum()))]
    names = [f'{classes[i]} {float(scores[i].detach()):.2f}' for i in order]
    pairs = enumerate(zip(order, names, strict=True), start=1)
    return [Target(number, name, [logits[i]]) for number, (i, name) in pairs]


def regions(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> list[Target]:
    """Every class that is predicted somewhere: its mean logit over the pixels where it is.

    (Vinogradova et al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class
    Activation Mapping", 2020.)

    Args:
        logits: (classes, H, W) with gradients; (1, H, W) of a single class against the rest. Those
            of some heads are scores.
        labels: (H, W), the class of each pixel.
    """
    targets = []
    for label in map(int, labels.unique()):
        if len(logits) == 1 and label == 0:  # what is not of the only class has no logit
            continue
        own = logits[0 if len(logits) == 1 else label][labels == label]
        targets.append(Target(label, classes[label], [own.mean()], score=True))
    return targets
