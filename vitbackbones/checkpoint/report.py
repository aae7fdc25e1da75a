"""What was loaded, in a form that code can ask and a line that people read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmengine.logging import print_log

from .matching import StateDictMatch, Target, part_of
from .reading import state_dict_keys


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was loaded; ``str()`` is its line in the log.

    Attributes:
        source: path or URL.
        description: what the file was recognised as.
        loaded: names in the network that were set.
        total: tensors that the network has and the file should hold.
        dropped: names in the file that were not used, and what they belong to.
        initialised: names in the network that keep their initial values.
        adapted: names in the network whose tensors were changed to fit, and how.
        choice: which of several state dicts in the file was taken.
        note: what else there is to say of what was initialised.
    """

    source: str
    description: str
    loaded: tuple[str, ...]
    total: int
    dropped: Mapping[str, str]
    initialised: tuple[str, ...]
    adapted: Mapping[str, str]
    choice: str
    note: str = ''

    def __str__(self) -> str:
        parts = [f'loaded {len(self.loaded)}/{self.total} tensors ({self.description})']
        for what, names in (
            ('dropped', self.dropped),
            ('initialised', {name: part_of(name) for name in self.initialised}),
            ('adapted', self.adapted),
        ):
            if names:
                labels = ', '.join(dict.fromkeys(names.values()))
                parts.append(f'{what} {len(names)} ({labels})')
        return '; '.join([*parts, *filter(None, [self.note, self.choice]), f'from {self.source}'])

    def log(self) -> None:
        print_log(str(self), logger='current')


class Reading(NamedTuple):
    """How a network is loaded: what of a file goes where, and what there is to say of it.

    Attributes:
        target, match: the network, and how the file goes together with it.
        description: what the file was recognised as.
        outside: names in the file of what is no part of the network, and what they belong to.
        note: what else there is to say of what was initialised.
    """

    target: Target
    match: StateDictMatch
    description: str
    outside: Mapping[str, str] = {}
    note: str = ''

    def report(self, source: str, choice: str) -> LoadReport:
        match = self.match
        return LoadReport(
            source=source,
            description=self.description,
            loaded=tuple(match.tensors),
            total=len(self.target.tensors) - len(match.initialised),
            dropped={**match.dropped, **self.outside},
            initialised=tuple(match.initialised),
            adapted=match.adapted,
            choice=choice,
            note=self.note,
        )


def choice_of(content: Mapping[str, Any], holder: str) -> str:
    """Which of the state dicts in a file was taken, if there are several."""
    unused = ', '.join(repr(key) for key in state_dict_keys(content) if key != holder)
    return f'took {holder!r}, not {unused}' if unused else ''


def describe(
    target: Target, match: StateDictMatch, *, in_detector: bool, headed: bool = False
) -> str:
    """What kind of file it is that matches ``target``; ``headed`` if a head stands beside it."""
    what = f'{match.dialect} {target}'.strip()
    if in_detector:
        return f'{what} in a detector or segmentor'
    # Where a classifier lacks nothing, only the head that was dropped betrays it.
    headed |= any(key.partition('.')[0].endswith('head') for key in match.dropped)
    return f'{what} {"classifier" if match.initialised or headed else "backbone"}'


@functools.cache
def log_licence(family: str, licence: str) -> None:
    """Once per process."""
    print_log(f'the published weights of {family} are licensed {licence}', logger='current')
