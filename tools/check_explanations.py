"""How much the explanations of a trained one-stage detector say of it.

For every detection of some images, the share of its Grad-CAM's energy that lies inside its box,
next to that inside boxes of the same size at random places; and how the maps of the same outputs
change while the weights are made random, from the head down to the stem (Adebayo et al., "Sanity
Checks for Saliency Maps", 2018), as Spearman's rank correlation with those of trained weights::

    python tools/check_explanations.py CONFIG CHECKPOINT IMAGE ... --stage 3
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.explaining.gradcam import (
    KeptGradients,
    Target,
    activation_maps,
    detections,
)
from vitbackbones.explaining.loading import Loader
from vitbackbones.explaining.stages import recording
from vitbackbones.inference.drawing import SCORE
from vitbackbones.inference.predict import test_pipeline
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.trained import build_trained

PLACES = 100  # random ones for each box


def summed(energy: Tensor) -> np.ndarray:
    """(H, W) -> (H + 1, W + 1): what lies above and to the left, as shares of all of it."""
    total = F.pad(energy.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    return (total / total[-1, -1].clamp(min=1e-30)).numpy()


def share(sums: np.ndarray, box: Any) -> float:
    """Of a map's energy, as :func:`summed`, what lies inside (x1, y1, x2, y2) in its pixels."""
    height, width = sums.shape
    x1, x2 = (min(max(0, round(side)), width - 1) for side in (box[0], box[2]))
    y1, y2 = (min(max(0, round(side)), height - 1) for side in (box[1], box[3]))
    return float(sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1])


def at_random(box: Any, height: int, width: int, rng: np.random.Generator) -> Iterator[list[float]]:
    """Boxes of the same size somewhere in the image."""
    w, h = box[2] - box[0], box[3] - box[1]
    for _ in range(PLACES):
        x, y = rng.uniform(0, max(width - w, 0)), rng.uniform(0, max(height - h, 0))
        yield [x, y, x + w, y + h]


def ranks(values: Tensor) -> np.ndarray:
    """Equal values, as the zeros of a map, have their mean rank."""
    _, places, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    return (counts.cumsum() - counts / 2)[places.ravel()]


def output_of(model: Any, data: dict[str, Any], place: tuple[int, int]) -> Tensor:
    """One number of the class scores before their sigmoid: (level, place in it)."""
    scores = model(data['inputs'], mode='tensor')[0]
    return scores[place[0]].flatten()[place[1]]


def place_of(model: Any, data: dict[str, Any], score: float) -> tuple[int, int]:
    """Which of the class scores a detection has."""
    scores = [level.sigmoid().flatten() for level in model(data['inputs'], mode='tensor')[0]]
    near = [(float((s - score).abs().min()), i) for i, s in enumerate(scores)]
    level = min(near)[1]
    return level, int((scores[level] - score).abs().argmin())


def parts_from_the_head(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """The parts of a detector in the order in which they are made random."""
    yield 'head', [model.bbox_head]
    yield 'neck', [model.neck]
    parts = defaultdict(list)
    for stage, part in itertools.chain(*model.backbone.layers()):
        parts[stage].append(part)
    for stage in sorted(parts, reverse=True):
        yield (f'stage {stage}' if stage else 'stem'), parts[stage]


def make_random(parts: list[Any]) -> None:
    """Draw weights of the same mean and spread."""
    for part in parts:
        parameters = part.parameters() if isinstance(part, nn.Module) else [part]
        for p in parameters:
            if p.numel() > 1:
                p.data.normal_(float(p.data.mean()), float(p.data.std()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='+', type=Path)
    parser.add_argument('--stage', type=int, nargs='+', default=[3])
    parser.add_argument('--outputs', type=int, default=20, help='followed while weights change')
    args = parser.parse_args()
    torch.manual_seed(0)
    cfg = load_config(args.config)
    init_default_scope(cfg.default_scope)
    model, meta = build_trained(cfg, args.checkpoint)
    loader = Loader(model, test_pipeline(cfg))
    rng = np.random.default_rng(0)
    found: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    followed = []
    for path in args.images:
        loaded = loader.load(path)
        data = loaded.data
        left, top, right, bottom = map(round, loaded.place.at)
        recorded = recording(model.backbone, args.stage, in_trunk=True)
        with torch.enable_grad(), KeptGradients(), recorded as seen:
            (sample,) = model(**data, mode='predict')
        scores, _ = detections(sample.pred_instances, meta['classes'], SCORE)
        for target in scores:
            assert target.box is not None
            x1, y1, x2, y2 = loaded.place.in_input(target.box)
            box = [x1 - left, y1 - top, x2 - left, y2 - top]
            maps = activation_maps(target, seen.maps)
            for stage, own in maps.items():
                cell = model.backbone.strides[stage - 1]
                energy = F.interpolate(own[None, None], scale_factor=cell, mode='bilinear')
                energy = summed(energy[0, 0, top:bottom, left:right])
                places = at_random(box, bottom - top, right - left, rng)
                elsewhere = [share(energy, b) for b in places]
                row = (share(energy, box), float(np.mean(elsewhere)))
                found[stage, target.name.split()[0]].append(row)
                found[stage, 'all'].append(row)
        with torch.no_grad():
            best = [float(t.values[0].detach()) for t in scores[:3]]
            followed += [(data, place_of(model, data, score)) for score in best]
        print(path.name, len(scores), 'detections', flush=True)
    print('| stage | class | detections | energy in the box | in a random one | ratio | at 2 x |')
    print('|---|---|---|---|---|---|---|')
    for (stage, name), rows in sorted(found.items()):
        inside, elsewhere = np.array(rows).mean(0)
        twice = np.mean([a >= 2 * b for a, b in rows])
        print(
            f'| {stage} | {name} | {len(rows)} | {inside:.3f} | {elsewhere:.3f} | '
            f'{inside / elsewhere:.1f} | {twice:.1%} |'
        )
    follow(model, followed[: args.outputs], args.stage)


def follow(model: Any, followed: list[Any], stages: list[int]) -> None:
    """Print how the maps of the same outputs change with the weights."""
    model = copy.deepcopy(model)

    def maps() -> dict[int, list[np.ndarray]]:
        got: dict[int, list[np.ndarray]] = {stage: [] for stage in stages}
        for data, place in followed:
            recorded = recording(model.backbone, stages, in_trunk=True)
            with torch.enable_grad(), recorded as seen:
                target = Target(0, '', [output_of(model, data, place)], (0, 0, 1, 1))
            for stage, own in activation_maps(target, seen.maps).items():
                got[stage].append(ranks(own))
        return got

    before = maps()
    print('| random from the head to | ' + ' | '.join(f'stage {s}' for s in stages) + ' |')
    print('|---|' + '---|' * len(stages))
    for name, parts in parts_from_the_head(model):
        make_random(parts)
        now = maps()
        cells = [
            np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(before[s], now[s], strict=True)])
            for s in stages
        ]
        print(f'| {name} | ' + ' | '.join(f'{cell:.2f}' for cell in cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
