"""Tables as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True) -> str:
    """A table; its first column is aligned to the left, as the others are without ``figures``."""
    rule = ['---', *['---:' if figures else '---'] * (len(head) - 1)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in (head, rule, *rows))


def percent(share: float) -> str:
    """``12%``; a dash for nan, which is not known."""
    return '-' if math.isnan(share) else f'{share:.0%}'


def comma_separated(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; what is None stays empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([head, *rows])
    return text.getvalue()
