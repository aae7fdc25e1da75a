"""How thick the regions of label maps are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: So many label maps tell.
MAPS = 200

IGNORED = 255


def thickness(maps: Sequence[Path], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(C,) median over label maps of the thickness of each class's regions, nan where it has none.

    A strip of any length is as thick as twice its area over the length of its border.

    Args:
        maps: label maps; :data:`MAPS` of them, evenly chosen, are read, and more while a class is
            in none of them.
        shown: (C,) whether some map shows a class.
    """
    classes = len(shown)
    sample = maps[:: max(1, -(-len(maps) // MAPS))]
    rows = [_of_one(path, classes) for path in sample]
    missing = shown & np.isnan(rows).all(0)
    read = {*sample}
    for path in maps:
        if not missing.any():
            break
        if path in read:
            continue
        rows.append(_of_one(path, classes))
        missing &= np.isnan(rows[-1])
    found = np.full(classes, np.nan)
    for label, column in enumerate(np.array(rows).reshape(-1, classes).T):
        known = column[~np.isnan(column)]
        if len(known):
            found[label] = np.median(known)
    return found


def _of_one(path: Path, classes: int) -> NDArray[np.float64]:
    with Image.open(path) as image:
        labels = np.asarray(image)
    area = np.bincount(labels.ravel(), minlength=256)[:classes].astype(float)
    border = np.zeros(256)
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        edge = (one != other) & (one != IGNORED) & (other != IGNORED)
        for side in (one, other):
            border += np.bincount(side[edge], minlength=256)
    with np.errstate(divide='ignore', invalid='ignore'):
        thick = 2 * area / border[:classes]
    return np.where((area > 0) & (border[:classes] > 0), thick, np.nan)
