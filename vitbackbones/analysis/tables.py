"""Tables as Markdown and CSV, files that are there completely or not at all, a progress bar."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column is aligned to the left, the others are figures."""
    rule = ['---', *['---:'] * (len(head) - 1)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in (head, rule, *rows))


def percent(share: float) -> str:
    """``12%``; a dash for nan, which is not known."""
    return '-' if math.isnan(share) else f'{share:.0%}'


def comma_separated(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; what is None stays empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([head, *rows])
    return text.getvalue()


def write(path: Path, content: str | bytes) -> None:
    """Write a file, or leave the one that was there, even if the machine stops in between."""
    new = path.with_name(f'.{path.name}.new')
    with new.open('wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def progress_bar() -> Progress:
    """On standard error: what is done, a bar, how much of how much, the time that is left."""
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
