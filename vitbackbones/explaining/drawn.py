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
from vitbackbones.inference.drawing import SCORE

from .attention import Attention, attending, attention
from .features import energy, principal_components
from .gradcam import KeptGradients, Target, activation_maps, detections, regions
from .pictures import View
from .stages import recording, stages_of
from .tokens import dropping_blocks, dropping_points, kept_tokens

Panels = list[tuple[str, Image.Image]]


class ImageError(Exception):
    """One sentence about an image of which there is nothing to draw."""


@dataclass(frozen=True)
class Given:
    """A model and one image.

    Attributes:
        data: what the model's data preprocessor made of the image, a batch of one.
        image: the file in RGB.
        shape: height and width of the image in the network's input.
        stages: that are wanted, or blocks of tokens.
        box: whether boxes of detections are explained besides scores.
    """

    model: Any
    network: Backbone
    classes: Sequence[str]
    data: Mapping[str, Any]
    image: Image.Image
    shape: Sequence[int]
    stages: Sequence[int]
    box: bool

    @property
    def x(self) -> Tensor:
        """(1, in_channels, H, W)."""
        return self.data['inputs']

    def view(self, cells: Sequence[int], cell: int) -> View:
        """The image under a map of so many ``cells``, each of ``cell`` pixels of the input."""
        height, width = cells
        return View.of(self.image, self.shape, (height * cell, width * cell))

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
        covered = view.covered(values)
        rows, columns = covered.shape[1:]
        colours = values.new_zeros(*values.shape[1:], 3)
        colours[:rows, :columns] = principal_components(covered)
        strength = energy(values).cpu().numpy()
        panels = [
            (f'stage {stage}: {len(values)} channels, {rows} x {columns}', view.image),
            ('principal components', view.colours(colours.cpu().numpy())),
            (f'energy, {strength.min():.1f} to {strength.max():.1f}', view.scale(strength)),
        ]
        yield Drawing(stage, None, panels, {'': covered.cpu().numpy()})


def _gradcam(given: Given) -> Iterator[Drawing]:
    recorded = recording(given.network, given.stages, in_trunk=True)
    with torch.enable_grad(), KeptGradients(), recorded as seen:
        (sample,) = given.model(**given.data, mode='predict')
    targets, boxes = _targets(given, sample)
    for i, target in enumerate(targets):
        explained = {'': activation_maps(target, seen.maps)}
        if given.box:
            explained['_box'] = activation_maps(boxes[i], seen.maps)
        for stage in sorted(seen.maps):
            maps = {name: of[stage].cpu() for name, of in explained.items()}
            yield _activation(given, stage, target, maps)


def _targets(given: Given, sample: Any) -> tuple[Sequence[Target], Sequence[Target]]:
    if 'pred_instances' in sample:
        found = sample.pred_instances
        targets, boxes = detections(found, given.classes, SCORE)
        missing = f'the model finds nothing with a score of {SCORE} or more'
    else:
        logits, labels = sample.seg_logits.data, sample.pred_sem_seg.data[0]
        targets, boxes = regions(logits, labels, given.classes), []
        missing = 'the model finds none of its classes'
    if not targets:
        raise ImageError(f'{missing}: there is nothing to explain')
    if not targets[0].values[0].requires_grad:
        name = type(given.model).__name__
        raise ImageError(f'{name} predicts without gradients, which Grad-CAM needs')
    return targets, boxes


def _activation(given: Given, stage: int, target: Target, maps: Mapping[str, Tensor]) -> Drawing:
    view = given.view_of(stage, maps[''])
    names = {'': 'its score', '_box': 'its box'}
    panels = [(f'{target.number}: {target.name}', view.image)]
    for key, values in maps.items():
        title = f'stage {stage}' + (f', {names[key]}' if given.box else '')
        title += '' if values.any() else ': nothing here speaks for it'
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
    height = given.x.shape[2]
    cell = {-(-height // stride): stride for stride in given.network.strides}
    size = next(part.values.shape[1:] for part in parts if part.values.ndim == 3)
    view = given.view(size, cell[size[0]])
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
    height, width = (-(-side // PATCH_SIZE) * PATCH_SIZE for side in given.x.shape[2:])
    for number, point in enumerate(dropping_points(network), start=1):
        kept = kept_tokens(network, given.x, point)
        for block in given.stages:
            view = View.of(given.image, given.shape, (height, width))
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
