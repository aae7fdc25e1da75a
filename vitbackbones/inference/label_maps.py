"""Label maps as files: PNG whose pixels are labels, with the names of the classes beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

#: The text of a PNG that lists the classes in the order of their labels, as JSON.
CLASSES = 'classes'


def write_label_map(file: Path | IO[bytes], labels: np.ndarray, classes: Sequence[str]) -> None:
    """Write a label map, (H, W), as PNG: of 8 bits, or 16 where there are more than 256 classes.

    Args:
        classes: names by label; readers that look for nothing but pixels do not see them.
    """
    depth = np.uint8 if len(classes) <= 256 else np.uint16
    names = PngInfo()
    names.add_itxt(CLASSES, json.dumps(list(classes), ensure_ascii=False), zip=True)
    Image.fromarray(labels.astype(depth)).save(file, format='PNG', pnginfo=names)


def read_label_map(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """A label map, (H, W), and the classes in the order of its labels; None where nobody says.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is no label map.
    """
    with Image.open(path) as image:
        try:
            labels = np.asarray(image)
        except SyntaxError as error:  # Pillow's word for a PNG that is damaged
            raise OSError(str(error)) from error
        text = image.info.get(CLASSES)
    if labels.ndim != 2:
        raise ValueError('is a coloured image, no label map with indices of classes')
    try:
        names = json.loads(text) if isinstance(text, str) else None
    except ValueError:  # somebody else's text
        names = None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return labels, names if is_list else None


def label_map_name(image: str, root: str) -> Path:
    """Where the label map of an image goes below the folder, if images lie below ``root``."""
    below = Path(os.path.relpath(image, root) if '://' not in image else image.rpartition('/')[2])
    name = below if '..' not in below.parts else Path(below.name)
    return name.with_suffix('.png')
