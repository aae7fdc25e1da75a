"""Find what is wrong with the data of a config before training on them.

Annotations in COCO's format and folders of label maps are checked, with the header of every
picture; `--images` decodes pictures and label maps as training does. Errors are what training stops
at; notes are what it copes with, and how. The exit status is 1 if there are errors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
from mmengine.registry import init_default_scope

from vitbackbones.analysis import tables
from vitbackbones.datacheck.findings import KINDS, Finding
from vitbackbones.datacheck.pictures import (
    check_label_map,
    check_picture,
    picture_size,
    wrong_labels,
)

from .config import add_config_arguments, load_config
from .datasets import Picture, Source, sources
from .errors import UserError

SPLITS = ('train', 'val', 'test')
CHUNK = 64  # pictures that a process gets at a time
_ORDER = list(KINDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--images', action='store_true', help='decode all pictures and label maps')
    parser.add_argument(
        '--split', choices=(*SPLITS, 'all'), default='all', help='which data (%(default)s)'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='processes that read pictures (%(default)s)',
    )
    parser.add_argument(
        '--show', type=int, default=5, help='examples of each kind to print (%(default)s)'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write all findings there')


def run(args: argparse.Namespace) -> int:
    """Check as ``args`` say; 1 if there is something that training stops at, else 0.

    Raises:
        UserError: the config or an option is not right, or there is nothing that can be checked.
    """
    if args.jobs < 1 or args.show < 0:
        raise UserError(f'--jobs {args.jobs} must be at least 1, --show {args.show} at least 0')
    if args.out and not args.out.parent.is_dir():
        raise UserError(f'--out {args.out}: there is no folder {args.out.parent}')
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    init_default_scope(cfg.default_scope)
    found: dict[str, tuple[str, Source]] = {}  # validation and test data are often the same
    for split in SPLITS if args.split == 'all' else (args.split,):
        for source in sources(cfg, split):
            found.setdefault(source.name, (split, source))
    if not found:
        raise UserError(f'{args.config} has no {args.split} data that can be checked')
    for split, source in found.values():
        source.findings += look_at(source, split, jobs=args.jobs, images=args.images)
        source.findings.sort(key=lambda f: (_ORDER.index(f.kind), f.file, f.detail))
        for line in report(split, source, args.show):
            print(line)
    if args.out:
        tables.write(args.out, json.dumps(as_json(found.values()), indent=1) + '\n')
    every = [finding for _, source in found.values() for finding in source.findings]
    errors = sum(finding.error for finding in every)
    print(f'{errors} errors, {len(every) - errors} notes')
    return 1 if errors else 0


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


# ------------------------------------------------------------------------------- pictures


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
