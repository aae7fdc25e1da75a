"""Values as json reads them: which are numbers, and which can be looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_HUGE = 1e15  # more pixels than there are


def is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; json reads NaN, and integers that are no float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE


def all_finite(numbers: Sequence[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # a single one that is not makes the sum so
    except (TypeError, OverflowError):
        return False
