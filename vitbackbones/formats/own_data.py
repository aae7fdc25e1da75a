"""What a folder of images and annotations turned out to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal['boxes', 'masks', 'labels']

#: Tasks in words.
WORDS: Mapping[Task, str] = {
    'boxes': 'boxes',
    'masks': 'masks of objects',
    'labels': 'label maps',
}
Form = Literal['coco', 'yolo', 'voc', 'label-maps']


@dataclass(frozen=True)
class Split:
    """Images of one purpose.

    Attributes:
        images: the folder that the names of their files are below.
        annotations: a file in COCO's format; of label maps the folder that they are below.
        number: of images.
        names: of label maps, a text file with the names of the images, one in a line and without
            suffix; None if all of the folder belong to it.
    """

    images: Path
    annotations: Path
    number: int
    names: Path | None = None


@dataclass(frozen=True)
class OwnData:
    """A folder of a user's, ready to be read by mmdet's CocoDataset or mmseg's BaseSegDataset.

    Attributes:
        folder: the user's.
        form: its format, in words.
        task: what its annotations teach: boxes, masks of instances, or label maps, where 255 is
            not learnt.
        classes: their names, in the order of their labels.
        palette: a colour (R, G, B) for each class.
        splits: by 'train', 'val' and, where there is one, 'test'.
        image_sizes: (N, 2) width and height of the training images, in pixels.
        objects: (M, 3) width and height of the training's objects, in pixels, and the index of
            their image in ``image_sizes``; of label maps (0, 3).
        pixels: (C,) of label maps, those of the training that show each class; else (0,).
        image_suffix: of label maps' images, such as '.jpg'.
        label_suffix: of label maps, such as '_labels.png'.
        written: the folder of what was written beside the config; None if nothing had to be.
        said: what was found, what was left out and what was made, one line each.
    """

    folder: Path
    form: str
    task: Task
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: Mapping[str, Split]
    image_sizes: NDArray[np.int64]
    objects: NDArray[Any]
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    image_suffix: str = '.jpg'
    label_suffix: str = '.png'
    written: Path | None = None
    said: tuple[str, ...] = ()
