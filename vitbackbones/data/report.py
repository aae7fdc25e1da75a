"""What is printed and written down of a dataset: its findings, and how much there is to learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .counts import ImageCounts, ObjectCounts, PixelCounts
from .findings import KINDS
from .sources import Source
from .verdicts import reasons

ORDER = list(KINDS)

# Of more classes than ALL, the table has the most and the least frequent ones.
ALL = 20
MOST, LEAST = 10, 5


def whole_report(found: Sequence[Source], show: int) -> Iterator[str]:
    """What is printed of all datasets, and how much is wrong with them."""
    for source in found:
        source.findings.sort(key=lambda f: (ORDER.index(f.kind), f.file, f.detail))
        yield from report(source, show)
    every = [finding for source in found for finding in source.findings]
    errors = sum(finding.error for finding in every)
    yield f'{errors} errors, {len(every) - errors} warnings'


def report(source: Source, show: int) -> Iterator[str]:
    """What is printed of a dataset: counts, then each kind with the first ``show`` of it."""
    count = '' if source.annotations is None else f', {source.annotations} annotations'
    yield f'{", ".join(source.splits)}: {source.name}: {len(source.images)} images{count}'
    if source.counts is not None:
        yield from (f'  {line}' for line in table(source.counts))
    for kind, (error, training, _) in KINDS.items():
        those = [finding for finding in source.findings if finding.kind == kind]
        if those:
            yield f'  {"error" if error else "warning"}: {kind}: {len(those)} ({training})'
            yield from (f'    {finding}' for finding in those[:show])
            if len(those) > show:
                yield f'    and {len(those) - show} more'


def table(counts: ObjectCounts | PixelCounts | ImageCounts) -> Iterator[str]:
    """How much there is to learn, in lines."""
    if isinstance(counts, ObjectCounts):
        objects = sum(counts.objects.values())
        lost = counts.images_left_out
        yield f'images used: {counts.images_used}' + (
            f'; left out: {reasons(lost)}' if lost else ''
        )
        if counts.images_without_objects:
            yield f'  of these without objects: {counts.images_without_objects}'
        lost = counts.annotations_left_out
        yield f'objects used: {objects}' + (f'; left out: {reasons(lost)}' if lost else '')
        yield from _by_class(('objects', 'images'), counts.objects, counts.images_of_class)
        return
    if isinstance(counts, ImageCounts):
        if counts.unlabelled:
            yield f'images without a class: {counts.unlabelled}'
        yield from _by_class(('images',), counts.images)
        return
    pixels = sum(counts.pixels.values())
    all_ = max(pixels + counts.ignored, 1)
    yield f'label maps read: {counts.read} of {counts.images}'
    yield f'pixels: {pixels} of classes, {counts.ignored} ignored ({counts.ignored / all_:.1%})'
    yield from _by_class(('pixels', 'images'), counts.pixels, counts.images_of_class)


def _by_class(
    what: tuple[str, ...], numbers: dict[str, int], *others: dict[str, int]
) -> Iterator[str]:
    """A line for each class, or for the extremes of many, with a column for each of ``what``."""
    names = [name for name in numbers if numbers[name] or len(numbers) <= ALL]
    if len(names) > ALL:
        names.sort(key=lambda name: -numbers[name])
    shown = names if len(names) <= ALL else [*names[:MOST], None, *names[-LEAST:]]
    rows = [
        (f'... {len(names) - MOST - LEAST} more', *('' for _ in what))
        if name is None
        else (name, *(f'{column[name]}' for column in (numbers, *others)))
        for name in shown
    ]
    yield from _aligned(('class', *what), rows)
    if len(numbers) > len(names):
        yield f'{len(numbers) - len(names)} of {len(numbers)} classes have none'


def _aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for name, *figures in lines:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        yield '  '.join([name.ljust(widths[0]), *cells]).rstrip()


def as_json(found: Iterable[Source]) -> list[dict[str, Any]]:
    """All findings and counts as the file of ``--out`` has them."""
    return [
        dict(
            split=source.splits[0],
            splits=source.splits,
            name=source.name,
            pictures=len(source.images),  # the key of version 0.1
            annotations=source.annotations,
            counts=None if source.counts is None else source.counts.as_json(),
            findings=[dict(f._asdict(), error=f.error) for f in source.findings],
        )
        for source in found
    ]
