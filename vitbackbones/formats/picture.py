"""Images and their objects, between the format they are in and COCO's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vitbackbones.data.annotations import TOLERANCE
from vitbackbones.data.masks import mask_area

SHOWN = 3  # examples of each kind

#: Polygons (x1, y1, x2, y2 ...) in pixels, or run lengths as COCO has them.
Mask = Sequence[Sequence[float]] | Mapping[str, Any]


class Thing(NamedTuple):
    """An object of an image.

    Attributes:
        label: index of its class.
        box: x, y, width and height in pixels.
        mask: None where there are boxes alone.
        area: of the mask, as its format says it; None if it does not.
        crowd: it is neither to be learnt nor an error to be found.
    """

    label: int
    box: tuple[float, float, float, float]
    mask: Mask | None = None
    area: float | None = None
    crowd: bool = False


@dataclass
class Picture:
    """An image with its objects.

    Attributes:
        path: absolute.
        size: width and height as mmcv loads it, in pixels.
        digest: see :class:`~.looking.Seen`.
    """

    path: str
    size: tuple[int, int]
    things: list[Thing] = field(default_factory=list)
    digest: bytes = b''


class Notes:
    """What was found where, each kind counted and with a few examples.

    Paths of examples are shown as they are below ``root``.
    """

    def __init__(self, root: Path) -> None:
        self._root = f'{root.as_posix()}/'
        self._numbers: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, what: str, example: str, then: str) -> None:
        """Note one.

        Args:
            what: the kind, in the plural.
            then: what is done with all of them.
        """
        key = (what, then)
        self._numbers[key] = self._numbers.get(key, 0) + 1
        few, example = self._examples.setdefault(key, []), example.removeprefix(self._root)
        if len(few) < SHOWN and example not in few:
            few.append(example)

    def lines(self) -> list[str]:
        return [
            counted(what, self._examples[what, then], number, then)
            for (what, then), number in self._numbers.items()
        ]


def counted(what: str, examples: Sequence[str], number: int, then: str) -> str:
    """A line: what there is, how often, for example where, and what is done."""
    few = ', '.join(examples[:SHOWN]) + (', ...' if number > len(examples[:SHOWN]) else '')
    return f'{what}: {number} ({few}), {then}'


def tidy(pictures: Iterable[Picture], notes: Notes) -> None:
    """Cut objects at the edges of their images, and drop those of which nothing is left."""
    for picture in pictures:
        things = []
        for thing in picture.things:
            new = _inside(thing, picture.size)
            if new is None:
                notes.add('objects without area or outside their image', picture.path, 'left out')
                continue
            if _beyond(thing, picture.size) > TOLERANCE:
                notes.add('objects across the edge of their image', picture.path, 'cut there')
            things.append(new)
        picture.things = things


def area(thing: Thing) -> float:
    """In pixels, of the mask where there is one."""
    if thing.mask is not None:
        return (mask_area(thing.mask) if thing.area is None else thing.area) or 0.0
    return thing.box[2] * thing.box[3]


def around(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The box (x, y, width, height) around polygons."""
    left = min(min(polygon[::2]) for polygon in polygons)
    top = min(min(polygon[1::2]) for polygon in polygons)
    right = max(max(polygon[::2]) for polygon in polygons)
    bottom = max(max(polygon[1::2]) for polygon in polygons)
    return left, top, right - left, bottom - top


def _inside(thing: Thing, size: tuple[int, int]) -> Thing | None:
    """The object as far as it is in the image; None if that is nothing to mmdet's CocoDataset."""
    x, y, w, h = thing.box
    right, bottom = min(x + w, size[0]), min(y + h, size[1])
    left, top = max(x, 0.0), max(y, 0.0)
    if right - left < 1 or bottom - top < 1:
        return None
    mask = thing.mask
    if isinstance(mask, Sequence):
        mask = [polygon for polygon in mask if len(polygon) >= 6]
        if len(mask) < len(thing.mask or ()):
            thing = thing._replace(mask=mask, area=None)
    if mask is not None and not mask_area(mask):
        return None
    if _beyond(thing, size) <= 0:
        return thing
    if isinstance(mask, Sequence):
        mask = [[min(max(v, 0), size[i % 2]) for i, v in enumerate(part)] for part in mask]
    return thing._replace(box=(left, top, right - left, bottom - top), mask=mask, area=None)


def _beyond(thing: Thing, size: tuple[int, int]) -> float:
    """How far an object reaches over the edge of its image, in pixels; negative inside."""
    x, y, w, h = thing.box
    return max(-x, -y, x + w - size[0], y + h - size[1])
