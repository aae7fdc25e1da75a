"""Large images in tiles: cut and merged as SAHI does it, so that small objects are seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from vitbackbones.errors import UserError

from .coco import run_lengths_of

OVERLAP = 0.2  # of tiles beside each other, as a share of their side
MATCH = 0.5  # overlap from which on two objects of a class are one
#: SAHI merges no scores below: what lies around a good box there would enlarge it.
LEAST = 0.1


def check_sahi() -> None:
    """UserError if it cannot be imported."""
    try:
        import sahi.postprocess.combine
        import sahi.slicing  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tile needs SAHI ({error}): pip install 'vitbackbones[tile]', or beside "
            'opencv-python-headless pip install --no-deps sahi and then requests'
        ) from error


class _Tile(NamedTuple):
    left: int
    top: int
    found: InstanceData


class Tiles:
    """Predicts an image as a whole and in tiles, and merges what it finds.

    Args:
        pipeline: the test pipeline; it must begin with the loading of the image.
        predict: gives the data sample of what the pipeline makes of an image.
        side: of the tiles, in pixels.
        score: from which on what overlaps is merged; of what is below, the best is kept.

    Raises:
        UserError: the pipeline begins with something else.
    """

    def __init__(
        self, pipeline: Compose, predict: Callable[[Any], Any], side: int, score: float
    ) -> None:
        load, *rest = pipeline.transforms
        if not type(load).__name__.startswith('LoadImage'):
            raise UserError(
                f'--tile: the test pipeline begins with {type(load).__name__}, must begin with the '
                'loading of the image'
            )
        self.load = load
        self.rest = Compose(rest)
        self.predict = predict
        self.side = side
        self.score = max(score, LEAST)

    def __call__(self, loaded: Mapping[str, Any]) -> Any:
        """The data sample of an image, with what was found in all tiles.

        Masks are run lengths then.

        Args:
            loaded: what the pipeline starts from.
        """
        from sahi.slicing import get_slice_bboxes

        whole = self.load(dict(loaded))
        image = whole['img']
        height, width = image.shape[:2]
        sample = self._predict(dict(whole))
        places = get_slice_bboxes(height, width, self.side, self.side, False, OVERLAP, OVERLAP)
        if len(places) == 1:  # the image itself
            return sample
        found = [_Tile(0, 0, sample.pred_instances)]
        for x1, y1, x2, y2 in places:
            cut = dict(whole, img=np.ascontiguousarray(image[y1:y2, x1:x2]))
            cut['img_shape'] = cut['ori_shape'] = (y2 - y1, x2 - x1)
            found.append(_Tile(x1, y1, self._predict(cut).pred_instances))
        sample.pred_instances = merge(joined(found, (height, width)), self.score)
        return sample

    def _predict(self, results: dict[str, Any]) -> Any:
        return self.predict(self.rest(results))


def joined(tiles: Sequence[_Tile], size: tuple[int, int]) -> InstanceData:
    """What was found in tiles, in pixels of the image, whose height and width ``size`` is."""
    first = tiles[0].found
    every = InstanceData(
        bboxes=torch.cat(
            [
                each.found.bboxes + each.found.bboxes.new_tensor([each.left, each.top] * 2)
                for each in tiles
            ]
        ),
        scores=torch.cat([each.found.scores for each in tiles]),
        labels=torch.cat([each.found.labels for each in tiles]),
    )
    if 'masks' in first:
        every.masks = [_placed(mask, each, size) for each in tiles for mask in each.found.masks]
    return every


def _placed(mask: Any, tile: _Tile, size: tuple[int, int]) -> dict[str, Any]:
    """A tile's mask as run lengths of the image."""
    placed = np.zeros(size, np.uint8, order='F')
    mask = np.asarray(mask)
    placed[tile.top : tile.top + mask.shape[0], tile.left : tile.left + mask.shape[1]] = mask
    return run_lengths_of(placed)


def merge(found: InstanceData, score: float) -> InstanceData:
    """Objects without those that were found twice, the best scores first.

    From ``score`` on those of a class that overlap by half of the smaller one become one around
    them, as parts of an object that tiles cut do; its mask is all of theirs. Of those below what
    overlaps a better one by half of both together goes.
    """
    from sahi.postprocess.combine import batched_greedy_nmm, batched_nms

    if not len(found):
        return found
    rows = _rows(found)
    good = found.scores.numpy() >= score
    places = np.flatnonzero(good)
    boxes, groups = [], []
    for best, others in batched_greedy_nmm(rows[good], 'IOS', MATCH).items():
        box, group = _grown(rows, [int(places[i]) for i in (best, *others)])
        boxes.append(box)
        groups.append(group)
    merged = _merged(found, boxes, groups)
    # What has grown may reach over a part that the best part of the object does not.
    merged = merged[batched_nms(_rows(merged), 'IOS', MATCH)]
    every = InstanceData.cat([merged, found[torch.from_numpy(~good)]])
    return every[batched_nms(_rows(every), 'IOU', MATCH)]


def _grown(
    rows: NDArray[np.float32], group: Sequence[int]
) -> tuple[NDArray[np.float32], list[int]]:
    """The box around objects that are one, and which of a group these are; the best is first."""
    first, *others = group
    box, taken = rows[first, :4], [first]
    for i in others:
        if _share_of_smaller(box, rows[i, :4]) >= MATCH:
            ends = np.stack([box, rows[i, :4]])
            box = np.concatenate([ends[:, :2].min(0), ends[:, 2:].max(0)])
            taken.append(i)
    return box, taken


def _share_of_smaller(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How much of the smaller of two boxes is in the other."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    smaller = min(np.prod(box[2:] - box[:2]) for box in (one, other))
    return float(np.prod(sides.clip(0)) / smaller) if smaller else 0.0


def _merged(
    found: InstanceData, boxes: Sequence[NDArray[np.float32]], groups: Sequence[Sequence[int]]
) -> InstanceData:
    """The best of each group, with a box and the masks of all."""
    merged = found[torch.tensor([group[0] for group in groups], dtype=torch.int64)]
    merged.bboxes = torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4))
    if 'masks' in found:
        merged.masks = [_union([found.masks[i] for i in group]) for group in groups]
    return merged


def _rows(found: InstanceData) -> NDArray[np.float32]:
    """(N, 6) of x1, y1, x2, y2, rank and label, as SAHI has them with scores.

    Of equal scores the larger box has the higher rank: parts of an object do not replace it.
    """
    boxes = found.bboxes.float().numpy()
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    rows = np.zeros((len(boxes), 6), np.float32)
    rows[:, :4], rows[:, 5] = boxes, found.labels.numpy()
    rows[np.lexsort((areas, found.scores.numpy())), 4] = np.arange(len(boxes))
    return rows


def _union(masks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    if len(masks) == 1:
        return masks[0]
    code = coco_mask.merge([*masks])
    return dict(size=code['size'], counts=code['counts'].decode())
