"""Whether a file computes what the model does, before anybody may use it.

Three are compared: mmdet or mmseg, the module that was traced, and the file. The first two show
whether what was written here in place of their code is right, the last two whether what torch and
ONNX Runtime made of it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .doubt import Doubt
from .onnx import ExportError, Run
from .pairing import MOST_PIXELS, MOST_SCORE, Found, pair
from .reference import detections, label_maps
from .segmentors import Segmentor
from .two_stage import TwoStage
from .whole import Whole

#: What rounding may do where nothing was measured, in pixels and in score.
AIM_PIXELS, AIM_SCORE = 1e-3, 1e-5

#: How far probabilities of masks may be apart.
MOST_MASK = 1e-3

#: How far scores of a segmentor may be apart, as a share of the largest.
MOST_SHARE = 1e-4

#: Where numbers differ by so much, others may by this times as much.
MARGIN = 4.0


@dataclass
class Outcome:
    """What was compared, and how far it was apart at most.

    Attributes:
        is_detector: or else a segmentor.
        shapes: of the images.
        boxes: that were compared.
        pixels: coordinates differ by, at most.
        score: scores, or probabilities, differ by.
        unpaired: boxes that stand in one result alone, for rounding decides about them.
        places: pixels of masks or label maps that were compared.
        ties: of them, that differ, for rounding decides about them.
    """

    is_detector: bool
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    boxes: int = 0
    pixels: float = 0.0
    score: float = 0.0
    unpaired: int = 0
    places: int = 0
    ties: int = 0

    def __str__(self) -> str:
        """In one line."""
        sizes = ', '.join(f'{height} x {width}' for *_, height, width in self.shapes)
        said = []
        if self.is_detector:
            said.append(
                f'{self.boxes} boxes differ by {self.pixels:.1e} pixels, scores by '
                f'{self.score:.1e} at most, {self.unpaired} stand in one result alone by rounding'
                if self.boxes
                else 'nothing was found, which proves nothing of boxes'
            )
        if self.places:
            said.append(f'{self.ties} of {self.places:.2g} pixels differ, by rounding')
        if not self.is_detector and self.score:
            said.append(f'probabilities differ by {self.score:.1e} at most')
        return f'checked at {sizes}: {"; ".join(said)}'


@torch.no_grad()
def verify(whole: Whole, run: Run, images: Sequence[Tensor]) -> Outcome:
    """Compare the model, its module and the file on images (B, 3, H, W), uint8 in R, G, B.

    Args:
        run: what the file makes of an input.

    Raises:
        ExportError: they find different things, which rounding does not explain.
    """
    outcome = Outcome(is_detector=not isinstance(whole.module, Segmentor))
    for image in images:
        given = whole.module.pixels.given.of(image)
        place = f'{image.shape[2]} x {image.shape[3]}'
        if isinstance(whole.module, Segmentor):
            _compare_maps(whole.module, whole.model, given, image, run, place, outcome)
        else:
            _compare_boxes(whole, given, image, run, place, outcome)
        outcome.shapes.append(tuple(image.shape))
    return outcome


def _compare_boxes(
    whole: Whole, given: Tensor, image: Tensor, run: Run, place: str, outcome: Outcome
) -> None:
    module: Any = whole.module
    wanted = detections(whole.model, image)
    traced = Found(*module(given))
    written = Found(*run(given))
    for found in (traced, written):
        if (found.scores[1:] > found.scores[:-1]).any():
            raise ExportError(f'at {place} boxes are not in the order of their scores')
    results = (('mmdet', wanted, traced), ('the file', written, traced))
    for name, found, ours in results:
        pairing = pair(found, ours)
        outcome.boxes += len(ours.boxes)
        outcome.pixels = max(outcome.pixels, pairing.pixels)
        outcome.score = max(outcome.score, pairing.score)
        left = [*((found, i) for i in pairing.rest), *((ours, i) for i in pairing.other_rest)]
        if left:
            doubt = Doubt(
                score=min(MOST_SCORE, max(AIM_SCORE, MARGIN * pairing.score)),
                pixels=min(MOST_PIXELS, max(AIM_PIXELS, MARGIN * pairing.pixels)),
            )
            _explain(module, given, doubt, left, f'at {place}, in the traced program or {name}')
            outcome.unpaired += len(left)
        if isinstance(module, TwoStage) and module.masks and len(pairing.first):
            one = _of(found, pairing.first)
            _compare_masks(module, given, one, _of(ours, pairing.second), place, name, outcome)


def _of(found: Found, index: Tensor) -> Found:
    return Found(*(None if each is None else each[index] for each in found))  # type: ignore[arg-type]


def _explain(
    module: Any, given: Tensor, doubt: Doubt, left: Sequence[tuple[Found, Tensor]], where: str
) -> None:
    """Boxes that stand in one result alone must be such as rounding finds or loses."""
    may = module.possible(given, doubt)
    open_ = may.possible & ~may.sure
    doubtful = Found(may.boxes[open_], may.scores[open_], may.labels[open_])
    for found, i in left:
        box, score, label = found.boxes[i], found.scores[i], found.labels[i]
        near = (doubtful.boxes - box).abs().amax(dim=1) <= MOST_PIXELS
        near &= (doubtful.scores - score).abs() <= MOST_SCORE
        if not (near & (doubtful.labels == label)).any():
            sides = ', '.join(f'{value:.2f}' for value in box.tolist())
            raise ExportError(
                f'{where} alone there is a box of label {int(label)} with score '
                f'{float(score):.4f} at ({sides}), which rounding does not explain'
            )


def _compare_masks(
    module: TwoStage,
    given: Tensor,
    found: Found,
    ours: Found,
    place: str,
    name: str,
    outcome: Outcome,
) -> None:
    """Masks of the same boxes: (P, h, w) of them, or (P, H, W) bool in the image."""
    assert found.masks is not None
    assert ours.masks is not None
    if found.masks.dtype != torch.bool:  # raw
        worst = float((found.masks - ours.masks).abs().max())
        outcome.score = max(outcome.score, worst)
        if not worst <= MOST_MASK:
            raise ExportError(f'at {place} masks of {name} differ by {worst:.1e}')
        return
    if module.threshold < 0:
        return  # mmdet gives bytes to look at
    probabilities = module.pasted(given, ours.boxes, ours.labels)
    differ = found.masks != (probabilities >= module.threshold)
    tie = (probabilities - module.threshold).abs() <= MOST_MASK
    outcome.places += differ.numel()
    outcome.ties += int(differ.sum())
    if (differ & ~tie).any():
        raise ExportError(
            f'at {place} {int((differ & ~tie).sum())} pixels of masks of {name} differ, which '
            'rounding does not explain'
        )


def _compare_maps(
    module: Segmentor,
    model: Any,
    given: Tensor,
    image: Tensor,
    run: Run,
    place: str,
    outcome: Outcome,
) -> None:
    labels, scores = label_maps(model, image)
    ours = module.scores(given)
    compared = ours if module.threshold is None else ours.sigmoid()
    most = MOST_SHARE * float(compared.abs().max())
    worst = float((compared - scores).abs().max())
    if not worst <= most:
        raise ExportError(f'at {place} scores of mmseg differ by {worst:.1e}, more than {most:.1e}')
    (written,) = run(given)
    if module.probabilities:
        worst = float((written - module(given)).abs().max())
        outcome.score = max(outcome.score, worst)
        outcome.places += written.numel()
        if not worst <= MOST_SCORE:
            raise ExportError(f'at {place} probabilities of the file differ by {worst:.1e}')
        return
    for name, found in (('mmseg', labels), ('the file', written)):
        wanted = module(given)
        differ = found != wanted
        if module.threshold is None:
            behind = ours.amax(1) - ours.gather(1, found[:, None])[:, 0]
        else:
            behind = (compared[:, 0] - module.threshold).abs()
        outcome.places += differ.numel()
        outcome.ties += int(differ.sum())
        if (differ & (behind > 2 * most)).any():
            raise ExportError(
                f'at {place} {int((differ & (behind > 2 * most)).sum())} pixels of {name} differ, '
                'which rounding does not explain'
            )
