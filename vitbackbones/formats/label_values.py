"""What label maps hold: indices, or colours that stand for classes."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vitbackbones.data.images import check_file

MOST_COLOURS = 300  # of a label map; beyond that it is an image
_FEW_VALUES = 64  # of a label map whose name does not say that it is one


class Values(NamedTuple):
    """What is in a label map.

    Attributes:
        size: width and height in pixels; None if it cannot be read.
        values: those that occur, see :func:`as_numbers`; none if they are too many colours.
        counts: of the pixels that have each.
        coloured: whether it has three channels.
        palette: colours of the indices, if the file has them, as 65536 R + 256 G + B.
        problem: why it cannot be read.
    """

    size: tuple[int, int] | None
    values: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    coloured: bool = False
    palette: tuple[int, ...] = ()
    problem: str = ''


def look_at_map(path: str) -> Values:
    """What a label map holds."""
    broken = check_file(path)
    if broken:
        return Values(None, problem=broken.detail)
    try:
        with _opened(path) as image:
            palette = image.getpalette('RGB') if image.mode == 'P' else None
            found = Values(image.size, *_values(image), image.mode not in _PLAIN, _packed(palette))
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        return Values(None, problem=f'{type(error).__name__}: {error}'.partition('\n')[0])
    if not found.coloured and found.values[-1] > 255:
        highest = found.values[-1]
        return Values(None, problem=f'it has the value {highest}, and mmseg reads none above 255')
    return found


def looks_like_labels(path: str) -> bool:
    """Whether a file has so few values that it is no photograph."""
    found = look_at_map(path)
    return 0 < len(found.values) <= _FEW_VALUES


def as_numbers(image: Image.Image) -> np.ndarray:
    """(H, W) indices, or of colours 65536 R + 256 G + B."""
    if image.mode in _PLAIN:
        return np.asarray(image).astype(np.int32)
    red, green, blue = np.moveaxis(np.asarray(image.convert('RGB')).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def translate(path: str, to: str, table: dict[int, int], palette: list[int]) -> None:
    """Write a label map with other values.

    Args:
        table: the new one of each value, see :func:`as_numbers`.
        palette: red, green and blue of each.

    Raises:
        OSError: it cannot be written.
    """
    with _opened(path) as image:
        pixels = as_numbers(image)
    old = np.array(sorted(table), np.int32)
    new = np.array([table[value] for value in sorted(table)], np.uint8)
    labels = Image.fromarray(new[np.searchsorted(old, pixels)])
    labels.putpalette(palette)
    labels.save(to, format='PNG')


#: Modes of one channel.
_PLAIN = ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L')


def is_grey(value: int) -> bool:
    """Whether a colour's three channels are equal."""
    return value % 0x010101 == 0


def _packed(palette: list[int] | None) -> tuple[int, ...]:
    colours = palette or []
    triples = zip(colours[::3], colours[1::3], colours[2::3], strict=True)
    return tuple(red << 16 | green << 8 | blue for red, green, blue in triples)


def _opened(path: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of large images
        return Image.open(path)


def _values(image: Image.Image) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As :func:`as_numbers` has them, each once, in order, and how many pixels have each."""
    if image.mode in _PLAIN and image.mode not in ('L', 'P'):
        values, counts = np.unique(as_numbers(image), return_counts=True)
        return tuple(values.tolist()), tuple(counts.tolist())
    colours: Any  # single numbers or triples
    if image.mode in _PLAIN:
        colours = image.getcolors(256) or ()
        found = {value: number for number, value in colours}
    else:
        colours = image.convert('RGB').getcolors(MOST_COLOURS) or ()
        found = {r << 16 | g << 8 | b: number for number, (r, g, b) in colours}
    return tuple(sorted(found)), tuple(found[value] for value in sorted(found))
