"""Where the pixels of an image file are in what a network is given.

A test pipeline resizes an image, and may pad it at any side or take a part of it. What it says of
that differs from step to step, so it is asked: it is given a black image, a white one, and two
whose grey rises from one side to the other, and where these come out tells the place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: How far shares of a side may lie off a straight line, where a pipeline has moved images alone.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Place:
    """The part of an image file that a network sees, and where.

    Attributes:
        seen: the part, (x1, y1, x2, y2) in pixels of the file; not all where a pipeline crops.
        at: the same part in pixels of the input; what is around it is padding.
    """

    seen: tuple[float, float, float, float]
    at: tuple[float, float, float, float]

    @classmethod
    def of_all(cls, size: Sequence[int], shape: Sequence[int]) -> Place:
        """A file of a ``size`` (width, height) that fills an input's first (height, width)."""
        return cls((0, 0, size[0], size[1]), (0, 0, shape[1], shape[0]))

    def in_input(self, box: Sequence[float]) -> list[float]:
        """(x1, y1, x2, y2) in pixels of the file -> in pixels of the input."""
        moved = []
        for i, side in enumerate(box):
            start, end = self.seen[i % 2 :: 2]
            first, last = self.at[i % 2 :: 2]
            moved.append(first + (side - start) * (last - first) / (end - start))
        return moved


def traced(pipeline: Callable[..., Mapping[str, Any]], size: Sequence[int]) -> Place | None:
    """Where a pipeline puts image files of a ``size`` (width, height).

    Args:
        pipeline: from a dict with ``img_path`` to one with ``inputs``, a tensor (C, H, W).

    Returns:
        None if that cannot be told, as where it turns images or changes pixels by more than a
        factor and a summand.
    """
    width, height = size
    rising = [(np.arange(side) + 0.5) / side for side in size]
    planes = [np.zeros((1, 1)), np.ones((1, 1)), rising[0][None], rising[1][:, None]]
    out = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'image.png')
        for plane in planes:
            grey = np.rint(255 * np.broadcast_to(plane, (height, width))).astype(np.uint8)
            Image.fromarray(grey).convert('RGB').save(file, compress_level=1)
            packed = pipeline(dict(img_path=str(file), img_id=0))
            out.append(packed['inputs'].float().mean(0).numpy())
    black, white, *ramps = out
    contrast = white - black
    inside = np.abs(contrast) > 0.5 * np.abs(contrast).max()
    contrast[~inside] = 1
    edges = []
    for axis, (ramp, side) in enumerate(zip(ramps, size, strict=True)):
        shares = np.where(inside, (ramp - black) / contrast, 0).sum(axis)
        counts = inside.sum(axis)
        lines = np.flatnonzero(counts)
        found = _edges(lines, shares[lines] / counts[lines], side)
        if found is None:
            return None
        edges.append(found)
    across, down = edges
    return Place(
        (across[0][0], down[0][0], across[0][1], down[0][1]),
        (across[1][0], down[1][0], across[1][1], down[1][1]),
    )


def _edges(
    lines: np.ndarray, shares: np.ndarray, side: int
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """First and last pixel of a side of a file that are seen, and where they are.

    Args:
        lines: columns or rows of the input that show some of the file.
        shares: of the side, at the middle of each.
        side: pixels of the file.
    """
    if len(lines) < 2:
        return None
    slope, offset = np.polyfit(lines + 0.5, shares, 1)
    off = np.abs(slope * (lines + 0.5) + offset - shares).max()
    if slope * len(lines) < TOLERANCE or off > TOLERANCE + 0.5 / side:
        return None
    first, last = float(lines[0]), float(lines[-1] + 1)
    start, end = side * (slope * first + offset), side * (slope * last + offset)
    pixel = side * slope  # of the input, in pixels of the file: nothing is cropped by less
    return (
        (0.0 if start < pixel else float(start), float(side if end > side - pixel else end)),
        (first, last),
    )
