"""Values as json and configs have them: numbers, what can be looked up, names, colours."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

_HUGE = 1e15  # more pixels than there are


def is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; json reads NaN, and integers that are no float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE


def is_list_of_colours(palette: Any) -> TypeGuard[Sequence[Sequence[int]]]:
    """Whether a palette has a colour for each class.

    mmdet takes the name of one, as 'coco' or 'random', or a single tuple for all classes, too.
    """
    return isinstance(palette, (list, tuple)) and all(
        isinstance(colour, (list, tuple)) for colour in palette
    )


def colour_of(label: int) -> tuple[int, int, int]:
    """A colour of its own for each label, dark enough for white text."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.38 % 1, 0.85, 0.67)
    return round(red * 255), round(green * 255), round(blue * 255)


def listed(names: Iterable[str], shown: int = 5) -> str:
    """The first few names, in words."""
    every = list(names)
    return ', '.join(every[:shown]) + (' ...' if len(every) > shown else '')


def folded(name: str) -> str:
    """A name without what people write now one way and now another: case, spaces, hyphens."""
    return ''.join(char for char in name.casefold() if char not in ' _-')


def as_one_writes_them(*lists: Sequence[str]) -> list[list[str]]:
    """Each list with its names :func:`folded`, as far as that leaves them distinct in all."""
    new = [[folded(str(name)) for name in names] for names in lists]
    distinct = all(len({*names}) == len(names) for names in new)
    return new if distinct else [[*names] for names in lists]


def in_another_order(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists have the same names, however they are written, but not in one order."""
    first, second = as_one_writes_them(one, other)
    return {*first} == {*second} and first != second


def all_finite(numbers: Sequence[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # a single one that is not makes the sum so
    except (TypeError, OverflowError):
        return False
