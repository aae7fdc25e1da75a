"""How far a long command is."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bar(*columns: ProgressColumn) -> Progress:
    """On standard error: what is done, a bar, how much of how much, the time that is left.

    Args:
        columns: what stands before the time.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class RateColumn(ProgressColumn):
    """How many there are in a second, or how long one takes."""

    def render(self, task: Task) -> Text:
        """Nothing until two are done."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text('')
        return Text(f'{speed:.1f}/s' if speed >= 1 else f'{1 / speed:.1f} s each')
