"""What there is to draw of one image: maps, activation maps, attention, tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.supervit import PATCH_SIZE
from vitbackbones.benchmark.points import point_name
from vitbackbones.tasks import Task, task_of_sample

from .attention import Attention, attending, attention
from .features import energy, principal_components
from .gradcam import (
    KeptGradients,
    Target,
    activation_maps,
    best_classes,
    detections,
    regions,
)
from .loading import ImageError, Loaded
from .pictures import View
from .stages import recording, stages_of
from .tokens import dropping_blocks, dropping_points, kept_tokens

Panels = list[tuple[str, Image.Image]]


@dataclass(frozen=True)
class Given:
    """A model and one image.

    Attributes:
        loaded: the image, and what the model gets.
        stages: that are wanted, or blocks of tokens.
        box: whether boxes of detections are explained besides scores.
        threshold: the least score of what is explained.
    """

    model: Any
    network: Backbone
    classes: Sequence[str]
    loaded: Loaded
    stages: Sequence[int]
    box: bool
    threshold: float

    @property
    def x(self) -> Tensor:
        """(1, in_channels, H, W)."""
        return self.loaded.data['inputs']

    def view(self, cells: Sequence[int], cell: int) -> View:
        """The image under a map of so many ``cells``, each of ``cell`` pixels of the input."""
        height, width = cells
        return View.of(self.loaded.image, self.loaded.place, (height * cell, width * cell))

    def view_of_patches(self) -> View:
        """The image under SuperViT's patches: of the padded input, or of what is resized whole."""
        height, width = self.x.shape[2:]
        if self.network.dense:
            height, width = (-(-side // PATCH_SIZE) * PATCH_SIZE for side in (height, width))
        return View.of(self.loaded.image, self.loaded.place, (height, width))

    def view_of(self, stage: int, values: Tensor) -> View:
        """The image under the map (..., H', W') of a stage."""
        return self.view(values.shape[-2:], self.network.strides[stage - 1])


@dataclass(frozen=True)
class Drawing:
    """Panels with titles, and arrays by what is added to the drawing's name."""

    stage: int
    number: int | None
    panels: Panels
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@torch.no_grad()
def _features(given: Given) -> Iterator[Drawing]:
    with recording(given.network, given.stages) as seen:
        given.network(given.x)
    for stage, (values,) in sorted(seen.maps.items()):
        view = given.view_of(stage, values)
        covered, inside = view.covered(values), view.inside(values.shape[1:])
        rows, columns = covered.shape[1:]
        colours = values.new_zeros(*values.shape[1:], 3)
        colours[inside] = principal_components(covered)
        strength, shown = energy(values).cpu().numpy(), energy(covered)
        panels = [
            (f'stage {stage}: {len(values)} channels, {rows} x {columns}', view.image),
            ('principal components', view.colours(colours.cpu().numpy())),
            (f'energy, {shown.min():.1f} to {shown.max():.1f}', view.scale(strength)),
        ]
        yield Drawing(stage, None, panels, {'': covered.cpu().numpy()})


def _gradcam(given: Given) -> Iterator[Drawing]:
    recorded = recording(given.network, given.stages, in_trunk=True)
    with torch.enable_grad(), KeptGradients(), recorded as seen:
        (sample,) = given.model(**given.loaded.data, mode='predict')
        task = task_of_sample(sample)
        logits = given.model(given.x) if task is Task.CLASSIFICATION else None
    targets, boxes = _targets(given, task, sample, logits)
    views = {stage: given.view_of(stage, values) for stage, values in seen.maps.items()}

    def shown(stage: int, values: Tensor) -> Tensor:
        return views[stage].covered(values)  # what is brightest in padding is never seen

    for i, target in enumerate(targets):
        explained = {'': activation_maps(target, seen.maps, shown)}
        if given.box:
            explained['_box'] = activation_maps(boxes[i], seen.maps, shown)
        for stage in sorted(seen.maps):
            maps = {name: of[stage].cpu() for name, of in explained.items()}
            yield _activation(given, views[stage], stage, target, maps)


def _targets(
    given: Given, task: Task, sample: Any, logits: Any
) -> tuple[Sequence[Target], Sequence[Target]]:
    boxes: Sequence[Target] = []
    missing = 'the model finds none of its classes'
    match task:
        case Task.DETECTION:
            targets, boxes = detections(sample.pred_instances, given.classes, given.threshold)
            missing = (
                f'the model finds nothing with a score of {given.threshold:g} or more, which '
                '--threshold lowers'
            )
        case Task.SEGMENTATION:
            labels = sample.pred_sem_seg.data[0]
            targets = regions(sample.seg_logits.data, labels, given.classes)
        case Task.CLASSIFICATION:
            targets = best_classes(logits[0], sample.pred_score, given.classes, given.threshold)
    if not targets:
        raise ImageError(f'{missing}: there is nothing to explain')
    if not targets[0].values[0].requires_grad:
        name = type(given.model).__name__
        raise ImageError(f'{name} predicts without gradients, which Grad-CAM needs')
    return targets, boxes


def _activation(
    given: Given, view: View, stage: int, target: Target, maps: Mapping[str, Tensor]
) -> Drawing:
    names = {'': 'its score', '_box': 'its box'}
    panels = [(f'{target.number}: {target.name}', view.image)]
    for key, values in maps.items():
        title = f'stage {stage}' + (f', {names[key]}' if given.box else '')
        title += '' if view.covered(values).any() else ': nothing here speaks for it'
        panels.append((title, view.heat(values.numpy(), most=1)))
    if target.box is not None:
        panels = [(title, view.boxed(panel, target.box)) for title, panel in panels]
    arrays = {key: view.covered(values).numpy() for key, values in maps.items()}
    return Drawing(stage, target.number, panels, arrays)


def _attention(given: Given) -> Iterator[Drawing]:
    groups: dict[int, list[list[Attention]]] = {}
    for part in attention(given.network, given.x, given.stages):
        own = groups.setdefault(part.stage, [[]])
        # Kinds that take turns from block to block, as local and global attention, side by side.
        if any(part.kind == other.kind for other in own[-1]):
            own.append([])
        own[-1].append(part)
    for stage, drawings in groups.items():
        for number, parts in enumerate(drawings, start=1):
            yield _attended(given, stage, number, parts)


def _attended(given: Given, stage: int, number: int, parts: Sequence[Attention]) -> Drawing:
    if given.network.dense:
        cell = {-(-given.x.shape[2] // stride): stride for stride in given.network.strides}
        size = next(part.values.shape[1:] for part in parts if part.values.ndim == 3)
        view = given.view(size, cell[size[0]])
    else:
        view = given.view_of_patches()
    panels: Panels = [(f'stage {stage}', view.image)]
    arrays = {}
    for part in parts:
        values = part.values.cpu()
        title = f'block {part.block}, {part.kind.replace("_", " of ")}'
        if values.ndim == 3:
            values = view.covered(values)
            mean, most = part.values.mean(0).cpu().numpy(), float(values.mean(0).max())
            title += f', up to {most:.2f}'
            panels.append((title, view.heat(mean, smooth=False, most=most)))
        else:
            panels.append((title, view.bars(values.numpy())))
        arrays[f'_{part.kind}'] = values.numpy()
    return Drawing(stage, number, panels, arrays)


@torch.no_grad()
def _tokens(given: Given) -> Iterator[Drawing]:
    network: Any = given.network
    view = given.view_of_patches()
    for number, point in enumerate(dropping_points(network), start=1):
        kept = kept_tokens(network, given.x, point)
        for block in given.stages:
            here = kept[block].cpu()
            title = (
                f'block {block}, operating point {point_name(point)}: '
                f'{int(here.sum())} of {here.numel()} patches go on'
            )
            panels = [(title, view.only(here.numpy()))]
            yield Drawing(block, number, panels, {'': here.numpy()})


class What(NamedTuple):
    """What can be explained: the numbers that ``--stage`` may name, in words too, and drawings."""

    stages: Callable[[Backbone], list[int]]
    named: str
    drawings: Callable[[Given], Iterator[Drawing]]


DRAWN = {
    'features': What(stages_of, 'the stages with a map are', _features),
    'gradcam': What(stages_of, 'the stages with a map are', _gradcam),
    'attention': What(
        lambda network: [*attending(network)], 'the stages that attend are', _attention
    ),
    'tokens': What(dropping_blocks, 'the blocks that drop tokens are', _tokens),
}
