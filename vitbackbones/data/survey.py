"""Looking at the files of data sets, and what is said of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from vitbackbones.analysis import tables
from vitbackbones.errors import UserError

from .findings import KINDS, Finding
from .images import check_label_map, check_picture, picture_size, wrong_labels
from .sources import Picture, Source

CHUNK = 64  # pictures that a process gets at a time


ORDER = list(KINDS)


def report(split: str, source: Source, show: int) -> Iterator[str]:
    """What is printed of a data set: each kind with its number and the first ``show`` of it."""
    count = '' if source.annotations is None else f', {source.annotations} annotations'
    yield f'{split}: {source.name}: {len(source.pictures)} pictures{count}'
    for kind, (error, training) in KINDS.items():
        those = [finding for finding in source.findings if finding.kind == kind]
        if those:
            yield f'  {"error" if error else "note"}: {kind}: {len(those)} ({training})'
            yield from (f'    {finding}' for finding in those[:show])
            if len(those) > show:
                yield f'    and {len(those) - show} more'


def as_json(found: Any) -> list[dict[str, Any]]:
    """All findings as the file of ``--out`` has them."""
    return [
        dict(
            split=split,
            name=source.name,
            pictures=len(source.pictures),
            annotations=source.annotations,
            findings=[dict(f._asdict(), error=f.error) for f in source.findings],
        )
        for split, source in found
    ]


def look_at(source: Source, split: str, *, jobs: int, images: bool) -> list[Finding]:
    """What is wrong with the files of a data set, whatever the number of processes.

    Raises:
        UserError: a process was killed.
    """
    rest = Source(source.name, source.classes, source.ignore, source.backend)
    chunks = [source.pictures[i : i + CHUNK] for i in range(0, len(source.pictures), CHUNK)]
    if jobs == 1 or len(chunks) < 2:
        return _gather((look_at_some(chunk, rest, images) for chunk in chunks), split, source)
    # Processes are forked by the first submission, before the progress bar starts its thread.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context('fork'), _one_thread) as pool:
        futures = [pool.submit(look_at_some, chunk, rest, images) for chunk in chunks]
        try:
            return _gather((future.result() for future in futures), split, source)
        except BrokenProcessPool as error:
            raise UserError(
                f'a process that read pictures of {source.name} was killed; pictures may be too '
                f'large for the memory: try fewer than --jobs {jobs}'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _gather(chunks: Iterable[list[Finding]], split: str, source: Source) -> list[Finding]:
    found: list[Finding] = []
    done = 0
    with tables.progress_bar() as progress:
        task = progress.add_task(split, total=len(source.pictures))
        for findings in chunks:
            found += findings
            done = min(done + CHUNK, len(source.pictures))
            progress.update(task, completed=done)
    return found


def _one_thread() -> None:
    """One thread for each process; OpenCV takes all cores otherwise."""
    cv2.setNumThreads(0)


def look_at_some(pictures: Sequence[Picture], source: Source, images: bool) -> list[Finding]:
    """What is wrong with these pictures and their label maps."""
    return [finding for picture in pictures for finding in _look(picture, source, images)]


def _look(picture: Picture, source: Source, images: bool) -> Iterator[Finding]:
    findings = list(check_picture(picture.path, picture.size))
    yield from findings
    if images and not any(finding.error for finding in findings):
        yield from _decode(picture.path, source.backend)
    if picture.labels is None:
        return
    path = picture.labels['seg_map_path']
    findings = list(check_label_map(path, picture_size(picture.path)))
    yield from findings
    if images and not findings:
        yield from _decode_labels(picture.labels, source)


def _decode(path: str, backend: str) -> Iterator[Finding]:
    from mmcv.transforms import LoadImageFromFile

    try:
        LoadImageFromFile(imdecode_backend=backend)({'img_path': path})
    except Exception as error:  # decoders raise what they like
        yield Finding('unreadable picture', path, f'{type(error).__name__}: {error}')


def _decode_labels(row: dict[str, Any], source: Source) -> Iterator[Finding]:
    from mmseg.datasets.transforms import LoadAnnotations

    path = row['seg_map_path']
    results = dict(row, seg_fields=[])
    try:
        labels = LoadAnnotations()(results)['gt_seg_map']
    except Exception as error:  # as above
        yield Finding('unreadable picture', path, f'{type(error).__name__}: {error}')
        return
    wrong = wrong_labels(labels, len(source.classes), source.ignore) if source.classes else ''
    if wrong:
        yield Finding('label out of range', path, wrong)
