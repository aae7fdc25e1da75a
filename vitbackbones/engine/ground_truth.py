"""Ground truth of test samples, brought to the pixels that the model sees.

The test pipelines of mmdet and mmseg load annotations after they have resized the image, because
metrics are of the original one: boxes, masks and label maps are in its pixels. A loss is of the
resized and padded image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitbackbones.data.loading import iter_built_datasets

#: Label of pixels beyond the image, where the model's data preprocessor names none.
IGNORED = 255


def is_loaded_late(dataset: Any) -> bool:
    """Whether a dataset's pipeline, or that of one inside it, resizes before it loads annotations.

    Of one whose steps cannot be seen that is taken to be so: it is the frameworks' own order.
    """
    steps = [step for part in iter_built_datasets(dataset) for step in _steps(part)]
    names = [type(step).__name__ for step in steps]
    loading = [i for i, name in enumerate(names) if 'Load' in name and 'Annotations' in name]
    if not loading:
        return True
    return any('Resize' in name for name in names[: loading[-1]])


def _steps(part: Any) -> Iterator[Any]:
    """The steps of a pipeline, those inside others too."""
    inner = getattr(part, 'pipeline', None) or getattr(part, 'transforms', None)
    inner = inner or getattr(part, 'steps', None)
    if inner is None:
        yield part
        return
    for step in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _steps(step)


def obstacle(sample: Any) -> str:
    """Why a test sample cannot be compared with what the model makes of its image; '' if it can."""
    if 'gt_sem_seg' not in sample and 'bboxes' not in sample.get('gt_instances', ()):
        return 'the validation pipeline loads no annotations'
    if 'border' in sample.metainfo_keys() or sample.get('flip'):
        return 'the validation pipeline moves or flips images, but not their annotations'
    return ''


def at_input_scale(sample: Any, image: Tensor, late: bool) -> Any:
    """A copy of a test sample whose ground truth is in the pixels of its resized image.

    Args:
        sample: of mmdet or mmseg, as the pipeline has packed it.
        image: (3, H, W) as the pipeline has made it, perhaps padded at the right and bottom.
        late: whether boxes are in the pixels of the original image, see :func:`is_loaded_late`.
            Masks and label maps tell by their own size.
    """
    original = tuple(sample.get('ori_shape', image.shape[-2:])[:2])
    height, width = image.shape[-2:]
    # Where an image was padded, only the factor tells how large its content is.
    factors = sample.get('scale_factor')
    across, down = (width / original[1], height / original[0]) if factors is None else factors
    size = (round(original[0] * down), round(original[1] * across))
    drawn = next(_sizes(sample), None)
    if drawn is not None:
        late = drawn == original
    copy = sample.new()
    if not late or size == original:
        return copy
    for name in ('gt_instances', 'ignored_instances'):
        if name in copy:
            setattr(copy, name, _rescaled(copy.get(name), size, (across, down)))
    if 'gt_sem_seg' in copy:
        copy.gt_sem_seg = _changed(copy.gt_sem_seg, lambda labels: _resized(labels, size))
    return copy


def pad_to(sample: Any, size: tuple[int, int], ignored: int) -> None:
    """Fill masks and label maps of a sample up to the batch's (H, W), in place."""
    for name in ('gt_instances', 'ignored_instances'):
        objects = sample.get(name)
        if objects is not None and 'masks' in objects:
            objects.masks = objects.masks.pad(size)
    if 'gt_sem_seg' in sample:
        sample.gt_sem_seg = _changed(
            sample.gt_sem_seg, lambda labels: _padded(labels, size, ignored)
        )


def ignored_label(preprocessor: Any) -> int:
    """What mmdet's or mmseg's data preprocessor fills label maps up with while training."""
    for name in ('seg_pad_val', 'seg_pad_value'):  # mmseg's, mmdet's
        if hasattr(preprocessor, name):
            return int(getattr(preprocessor, name))
    return IGNORED


def samples_of(batch: Any) -> Sequence[Any]:
    """The data samples of a batch of mmdet's or mmseg's.

    Raises:
        TypeError: it is of another kind.
    """
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    if not isinstance(samples, (list, tuple)) or not samples:
        raise TypeError('batches have no data_samples')
    return samples


def _sizes(sample: Any) -> Iterator[tuple[int, int]]:
    """(H, W) of what is drawn: label maps and masks."""
    if 'gt_sem_seg' in sample:
        for labels in sample.gt_sem_seg.values():
            height, width = labels.shape[-2:]
            yield int(height), int(width)
    objects = sample.get('gt_instances')
    if objects is not None and 'masks' in objects:
        masks = objects.masks
        yield int(masks.height), int(masks.width)


def _rescaled(objects: Any, size: tuple[int, int], factors: tuple[float, float]) -> Any:
    """Objects with boxes and masks as mmdet's Resize makes them."""
    objects = objects.new()
    if 'bboxes' in objects:
        boxes = objects.bboxes.clone()
        if isinstance(boxes, Tensor):
            boxes = boxes * boxes.new_tensor(factors).repeat(boxes.shape[-1] // 2)
            boxes[..., 0::2].clamp_(0, size[1])
            boxes[..., 1::2].clamp_(0, size[0])
        else:
            boxes.rescale_(factors)
            boxes.clip_(size)
        objects.bboxes = boxes
    if 'masks' in objects:
        objects.masks = objects.masks.resize(size)
    return objects


def _changed(maps: Any, change: Any) -> Any:
    """A copy of mmengine's PixelData with all its maps (1, H, W) changed."""
    changed = type(maps)(metainfo=maps.metainfo)
    for name, value in maps.items():
        setattr(changed, name, change(value))
    return changed


def _resized(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (1, H, W) of the nearest pixels, as OpenCV takes them."""
    rows, columns = (
        torch.tensor([math.floor(i * (old / new)) for i in range(new)]).clamp(max=old - 1)
        for old, new in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def _padded(labels: Tensor, size: tuple[int, int], ignored: int) -> Tensor:
    height, width = labels.shape[-2:]
    return F.pad(labels, (0, size[1] - width, 0, size[0] - height), value=ignored)
