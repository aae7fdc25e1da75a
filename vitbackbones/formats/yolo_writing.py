"""Objects written in YOLO's format, as `yolo.py` reads them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from .yolo import IMAGE_FOLDERS, LABEL_FOLDERS, label_files

#: Outlines are found on enlarged masks, whose borders lie that much nearer to those of the pixels.
_ZOOM = 4
_STRAIGHT = 0.5  # pixels by which a corner must stand out of an outline


def describe(folder: Path, classes: Sequence[str]) -> None:
    """Write data.yaml, and classes.txt, which labelling tools look for.

    Raises:
        OSError: they cannot be written.
    """
    content = dict(path='.', train='images', names=dict(enumerate(classes)))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / 'data.yaml').write_text(text, encoding='utf-8')
    (folder / 'classes.txt').write_text(''.join(f'{name}\n' for name in classes), encoding='utf-8')


def label_file(image: Path) -> Path:
    """Where the labels of an image are looked for first."""
    return Path(label_files(image.as_posix())[0])


def plain_name(name: PurePosixPath) -> PurePosixPath:
    """The name of an image below the folder of all, without folders that would be taken for it.

    Readers look for labels in the place of some folder called images, or the like; which one they
    mean they do not agree about.
    """
    words = IMAGE_FOLDERS + LABEL_FOLDERS
    folders = (f'{part}_' if part.lower() in words else part for part in name.parts[:-1])
    return PurePosixPath(*folders, name.name)


def box_line(label: int, box: Sequence[float], size: tuple[int, int]) -> str:
    """A line for a box.

    Args:
        box: x1, y1, x2, y2 in pixels; it is cut at the edges of the image.
        size: width and height of the image.
    """
    ends = [min(max(value / size[i % 2], 0), 1) for i, value in enumerate(box)]
    x1, y1, x2, y2 = ends
    return _line(label, ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))


def mask_line(label: int, mask: NDArray[Any]) -> str | None:
    """A line for the outline of the largest part of a mask, (H, W); None if there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
    cut = np.ascontiguousarray(mask[top : bottom + 1, left : right + 1], np.uint8)
    large = np.pad(cut.repeat(_ZOOM, 0).repeat(_ZOOM, 1), 1)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea)
    outline = cv2.approxPolyDP(outline, _STRAIGHT * _ZOOM, True)
    if len(outline) < 3:
        return None
    # Points are the middles of pixels of the enlarged mask, which has a border of one.
    points = (outline.reshape(-1, 2) - 1 + 0.5) / _ZOOM + (left, top)
    shares = points / (mask.shape[1], mask.shape[0])
    return _line(label, shares.reshape(-1))


def _line(label: int, values: Any) -> str:
    return f'{label} ' + ' '.join(f'{value:.6f}' for value in values) + '\n'
