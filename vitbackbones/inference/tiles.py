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
#: An object whose box ends that near to the border of its tile, as a share of the side, may be cut.
EDGE = 0.02


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


class Tile(NamedTuple):
    """What was found in a part of an image, x1, y1, x2 and y2 of which are ``place``."""

    place: Sequence[int]
    found: InstanceData


class Tiles:
    """Predicts an image as a whole and in tiles, and merges what it finds.

    Args:
        pipeline: the test pipeline; it must begin with the loading of the image.
        predict: gives the data sample of what the pipeline makes of an image.
        side: of the tiles, in pixels.
        score: from which on parts of an object that tiles cut are put together.

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
        found = [Tile((0, 0, width, height), sample.pred_instances)]
        for x1, y1, x2, y2 in places:
            cut = dict(whole, img=np.ascontiguousarray(image[y1:y2, x1:x2]))
            cut['img_shape'] = cut['ori_shape'] = (y2 - y1, x2 - x1)
            found.append(Tile((x1, y1, x2, y2), self._predict(cut).pred_instances))
        sample.pred_instances = merge(joined(found, (height, width)), self.score)
        return sample

    def _predict(self, results: dict[str, Any]) -> Any:
        return self.predict(self.rest(results))


def joined(tiles: Sequence[Tile], size: tuple[int, int]) -> InstanceData:
    """What was found in tiles, in pixels of the image, whose height and width ``size`` is.

    ``cut`` says of each object whether the border of its tile may cut it.
    """
    every = InstanceData(
        bboxes=torch.cat([_moved(each) for each in tiles]),
        scores=torch.cat([each.found.scores for each in tiles]),
        labels=torch.cat([each.found.labels for each in tiles]),
        cut=torch.cat([_cut(each, size) for each in tiles]),
    )
    if 'masks' in tiles[0].found:
        every.masks = [_placed(mask, each, size) for each in tiles for mask in each.found.masks]
    return every


def _moved(tile: Tile) -> torch.Tensor:
    boxes = tile.found.bboxes
    return boxes + boxes.new_tensor([*tile.place[:2]] * 2)


def _cut(tile: Tile, size: tuple[int, int]) -> torch.Tensor:
    """Of each object whether it ends at a border of its tile that is none of the image."""
    x1, y1, x2, y2 = tile.place
    edge = EDGE * max(x2 - x1, y2 - y1)
    near = torch.zeros(len(tile.found), 4, dtype=torch.bool)
    boxes = _moved(tile)
    near[:, :2] = boxes[:, :2] <= boxes.new_tensor([x1, y1]) + edge
    near[:, 2:] = boxes[:, 2:] >= boxes.new_tensor([x2, y2]) - edge
    return (near & torch.tensor([x1 > 0, y1 > 0, x2 < size[1], y2 < size[0]])).any(1)


def _placed(mask: Any, tile: Tile, size: tuple[int, int]) -> dict[str, Any]:
    """A tile's mask as run lengths of the image."""
    placed = np.zeros(size, np.uint8, order='F')
    mask = np.asarray(mask)
    left, top = tile.place[:2]
    placed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return run_lengths_of(placed)


def merge(found: InstanceData, score: float) -> InstanceData:
    """Objects without those that were found twice, the best scores first.

    Of whole ones that overlap the best is kept, by SAHI's NMS. What a tile may have cut goes if a
    whole one of its class lies on half of it. What remains of that are parts of objects that
    nothing has found whole: from ``score`` on those that overlap by half of the smaller one become
    one around them, as SAHI merges by default; its mask is all of theirs. Merging so what is whole,
    too, would make one of objects that touch.

    Args:
        found: with ``cut``, see :func:`joined`.
    """
    from sahi.postprocess.combine import batched_nms

    if not len(found):
        return found
    whole, parts = found[~found.cut], found[found.cut]
    if len(whole):
        whole = whole[batched_nms(_rows(whole), 'IOU', MATCH)]
    parts = parts[torch.from_numpy(~_covered(parts, whole, score))]
    good = parts.scores >= score
    every = [whole, _united(parts[good]), parts[~good]]
    result = InstanceData.cat([each for each in every if len(each)])
    result = result[batched_nms(_rows(result), 'IOU', MATCH)]
    result.pop('cut')
    return result


def _covered(parts: InstanceData, whole: InstanceData, score: float) -> NDArray[np.bool_]:
    """Of each part whether half of it is in a whole object, which is as good, or good enough."""
    if not len(parts) or not len(whole):
        return np.zeros(len(parts), bool)
    one, other = parts.bboxes.numpy()[:, None], whole.bboxes.numpy()[None]  # (P, 1, 4), (1, W, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    areas = np.prod(one[..., 2:] - one[..., :2], -1)
    lies_in = np.prod(sides.clip(0), -1) >= MATCH * areas  # (P, W)
    alike = parts.labels.numpy()[:, None] == whole.labels.numpy()[None]
    least = parts.scores.clamp(max=score).numpy()[:, None]
    return (lies_in & alike & (whole.scores.numpy()[None] >= least)).any(1)


def _united(parts: InstanceData) -> InstanceData:
    """Parts that overlap as one."""
    from sahi.postprocess.combine import batched_greedy_nmm, batched_nms

    if not len(parts):
        return parts
    rows = _rows(parts)
    boxes, groups = [], []
    for best, others in batched_greedy_nmm(rows, 'IOS', MATCH).items():
        box, group = _grown(rows, [best, *others])
        boxes.append(box)
        groups.append(group)
    merged = parts[torch.tensor([group[0] for group in groups], dtype=torch.int64)]
    merged.bboxes = torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4))
    if 'masks' in parts:
        merged.masks = [_union([parts.masks[i] for i in group]) for group in groups]
    # What has grown may reach over a part that the best part of the object does not.
    return merged[batched_nms(_rows(merged), 'IOS', MATCH)]


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
