"""Masks of objects in COCO's format: what is wrong with one, and how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .values import all_finite


def mask_problem(mask: Any, image: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and details; as mmdet's LoadAnnotations reads masks."""
    if not mask:
        return 'bad mask', 'there is none'
    if isinstance(mask, list):
        if not all(isinstance(part, list) for part in mask):
            return 'bad mask', f'a polygon must be a list of numbers, got {mask!r:.60}'
        if not all(map(all_finite, mask)):
            return 'bad mask', 'a polygon has coordinates that are no finite numbers'
        if not any(len(part) >= 6 and len(part) % 2 == 0 for part in mask):
            return 'mask without area', 'no polygon has three points'
        return None
    if not isinstance(mask, dict):
        return 'bad mask', f'it is a {type(mask).__name__}, neither polygons nor run lengths'
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(counts, (list, str)) or not isinstance(size, list) or len(size) != 2:
        return 'bad mask', 'run lengths need size and counts'
    if size != [image.get('height'), image.get('width')]:
        return 'mask of another size', (
            f'run lengths for {size[1]} x {size[0]} pixels, the image has '
            f'{image.get("width")} x {image.get("height")}'
        )
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if lengths is None:
        return 'bad mask', 'its compressed run lengths are cut off or damaged'
    if not all(isinstance(n, int) and n >= 0 for n in lengths):
        return 'bad mask', 'a run length is no number of pixels'
    if sum(lengths) != size[0] * size[1]:  # the rest would be whatever was in memory before
        return 'mask of another size', (
            f'its run lengths add up to {sum(lengths)} pixels, not {size[0] * size[1]}'
        )
    return None


def run_lengths(text: str) -> list[int] | None:
    """The run lengths of a mask that pycocotools has compressed; None where the text is damaged.

    A character less '0' is five bits of a number, from the lowest, and 32 if more follow; the
    highest bit of the last is the sign. From the fourth number on they are differences to the run
    before the last.
    """
    codes = np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8).astype(np.int64) - 48
    last = codes < 32
    if not codes.size or not last[-1] or codes.min() < 0 or codes.max() > 63:
        return None
    starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
    places = np.arange(codes.size) - np.repeat(starts, np.diff(starts, append=codes.size))
    if places.max() > 6:  # runs are numbers of 32 bits
        return None
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[last] & 16, 32 << 5 * places[last], 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers.tolist()


def mask_area(mask: Any) -> float | None:
    """Pixels of a mask, of its polygons or run lengths; None where it cannot be told."""
    if isinstance(mask, dict):
        counts = mask.get('counts')
        lengths = run_lengths(counts) if isinstance(counts, str) else counts
        if not isinstance(lengths, list) or not all_finite(lengths):
            return None
        return float(sum(lengths[1::2]))  # runs of zeros and of ones take turns
    if not mask or not isinstance(mask, list):
        return None
    area = 0.0
    for part in mask:
        if not isinstance(part, list) or len(part) % 2 or len(part) < 6 or not all_finite(part):
            return None
        x, y = np.array(part, float).reshape(-1, 2).T  # (N,), (N,)
        area += abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
    return area
