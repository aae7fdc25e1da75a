"""Operating points in words: as they are asked for, and as tables name them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

from vitbackbones.backbones.operating_point import OperatingPoint
from vitbackbones.engine.sandwich import KEEP_RATES, SCALES
from vitbackbones.errors import UserError


def read_points(words: Sequence[str] | None) -> list[OperatingPoint]:
    """The points of ``--points``, each once; None stands for those that a sandwich trains.

    Raises:
        UserError: a word is not two numbers in (0, 1] with a comma between them.
    """
    if words is None:
        pairs = itertools.product(sorted(SCALES, reverse=True), sorted(KEEP_RATES, reverse=True))
        return [OperatingPoint(scale=scale, keep_rate=rate) for scale, rate in pairs]
    points = []
    for word in words:
        try:
            scale, keep_rate = (float(Fraction(part)) for part in word.split(','))
            points.append(OperatingPoint(scale=scale, keep_rate=keep_rate))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UserError(
                f'--points {word}: expected SCALE,KEEP_RATE, two numbers in (0, 1] as in 8/14,0.5'
            ) from None
    return list({point_name(point): point for point in points}.values())


def point_name(point: OperatingPoint) -> str:
    """``8/14, 0.5``; two points of one name are taken for one."""
    return f'{scale_name(point.scale)}, {point.keep_rate:g}'


def scale_name(scale: float) -> str:
    """The published ones in fourteenths, as there."""
    whole = round(14 * scale)
    published = math.isclose(whole, 14 * scale) and whole in (8, 10, 12)
    return f'{whole}/14' if published else f'{scale:g}'
