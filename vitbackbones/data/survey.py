"""Looking at the files of datasets: what is wrong with them, and what their label maps hold."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config

from vitbackbones.errors import UserError
from vitbackbones.progress import progress_bar

from . import verdicts
from .configs import needs_annotations, number_of_datasets
from .counts import ImageCounts, ObjectCounts, PixelCounts, count_pixels, trained_labels
from .findings import Finding
from .images import check_file, check_image, check_label_map, image_size, wrong_labels
from .sources import ImageFile, Source, sources
from .twins import twins

CHUNK = 64  # images that a process gets at a time


class Seen(NamedTuple):
    """What was seen of some files.

    Attributes:
        findings: what is wrong with them.
        read: label maps that could be.
        values: (256,) pixels of each value in these.
        files: (256,) those of them that have each label, as it is trained on.
    """

    findings: list[Finding]
    read: int = 0
    values: np.ndarray | int = 0
    files: np.ndarray | int = 0


def survey(cfg: Config, splits: Sequence[str], *, jobs: int, decode: bool) -> list[Source]:
    """All datasets of these splits, with all findings and counts.

    Args:
        jobs: processes that read files.
        decode: whether images are decoded.

    Raises:
        UserError: a dataset's config is wrong, or a process was killed.
    """
    found: list[Source] = []
    trained: list[Source] = []
    for split in splits:
        group: list[Source] = []
        for source in sources(cfg, split):
            same = next((other for other in found if other.is_like(source)), None)
            group.append(same or source)
            if same is not None:  # validation and test data, most often
                same.splits.append(split)
                continue
            said = {f for other in found if other.name == source.name for f in other.findings}
            if not said or source.annotations is None:
                look_at(source, jobs=jobs, decode=decode)
            source.findings = [finding for finding in source.findings if finding not in said]
            found.append(source)
            if split != 'train':
                source.findings += _in_both(trained, source)
        trained = trained or group if split == 'train' else trained
        for finding in judge(cfg, split, group):
            if finding not in group[0].findings:
                group[0].findings.append(finding)
    return found


def judge(cfg: Config, split: str, group: Sequence[Source]) -> list[Finding]:
    """What there is not to learn, or to compare with, in all datasets of a split together."""
    if len(group) < number_of_datasets(cfg, split) or not needs_annotations(cfg, split):
        return []
    counts = [source.counts for source in group]
    objects = [each for each in counts if isinstance(each, ObjectCounts)]
    pixels = [each for each in counts if isinstance(each, PixelCounts)]
    images = [each for each in counts if isinstance(each, ImageCounts)]
    findings: list[Finding] = []
    if objects and objects == counts:
        findings += verdicts.of_objects(group[0].name, reduce(add, objects))
        if len(group) > 1:
            for source, count in zip(group, objects, strict=True):
                findings += verdicts.of_images(source.name, count)
    elif images and images == counts:
        findings += verdicts.of_classes(group[0].name, reduce(add, images))
    elif pixels and len(pixels) == len(counts):
        findings += verdicts.of_pixels(
            group[0].name,
            reduce(add, pixels),
            reduce_zero_label=all(_labels(source).get('reduce_zero_label') for source in group),
            ignore=group[0].ignore,
            learns=split == 'train',
        )
        if any(source.converted for source in group):
            kinds = ('nothing left', 'class without pixels')
            findings = [f._replace(kind='classes as loaded') for f in findings if f.kind in kinds]
    if any(f.error and f.file == source.name for source in group for f in source.findings):
        return [finding for finding in findings if not finding.error]  # its rows explain it
    return findings


def _in_both(trained: Sequence[Source], tested: Source) -> list[Finding]:
    """Images of classes that are tested on and equal to some that are trained on."""
    if not isinstance(tested.counts, ImageCounts):
        return []
    there = [image.path for source in trained for image in source.images]
    pairs = twins((image.path for image in tested.images), there)
    return [Finding('image of two splits', one, f'the same as {other}') for one, other in pairs]


def look_at(source: Source, *, jobs: int, decode: bool) -> None:
    """Look at all files of a dataset, and count its label maps, whatever the number of processes.

    Raises:
        UserError: a process was killed.
    """
    seen = _in_processes(partial(look_at_some, decode=decode), source.images, source, jobs)
    _take_over(source, seen)


def look_at_label_maps(group: Sequence[Source], most: int, *, jobs: int) -> None:
    """Count the label maps of datasets, at most ``most`` in all, evenly spread over all of them.

    Raises:
        UserError: a process was killed.
    """
    labelled = [
        (source, image)
        for source in group
        if source.label_backend is not None
        for image in source.images
        if image.labels
    ]
    step = max(1, -(-len(labelled) // most))
    for source in group:
        # At least one of each, or nothing would be known of the split.
        own = [place for place, (whose, _) in enumerate(labelled) if whose is source]
        chosen = [place for place in own if place % step == 0] or own[:1]
        if chosen:
            images = [labelled[place][1] for place in chosen]
            _take_over(source, _in_processes(_count_some, images, source, jobs))


def _take_over(source: Source, seen: Seen) -> None:
    source.findings += seen.findings
    if source.annotations is not None or not source.classes or not seen.read:
        return
    labels = _labels(source)
    trained = trained_labels(bool(labels.get('reduce_zero_label')), labels.get('label_map'))
    source.counts = count_pixels(
        np.asarray(seen.values),
        np.asarray(seen.files),
        trained=trained,
        classes=source.classes,
        ignore=source.ignore,
        images=len(source.images),
        read=seen.read,
    )


def _labels(source: Source) -> dict[str, Any]:
    """What is done to the values of its label maps, which is the same for all."""
    return next((image.labels for image in source.images if image.labels), {})


def _in_processes(
    look: Callable[[Sequence[ImageFile], Source], Seen],
    images: Sequence[ImageFile],
    source: Source,
    jobs: int,
) -> Seen:
    rest = replace(source, images=[], findings=[], counts=None)  # what is sent with each chunk
    chunks = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
    if jobs == 1 or len(chunks) < 2:
        return _gather((look(chunk, rest) for chunk in chunks), source.splits[0], len(images))
    # Processes are forked by the first submission, before the progress bar starts its thread.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context('fork'), _one_thread) as pool:
        futures = [pool.submit(look, chunk, rest) for chunk in chunks]
        try:
            results = (future.result() for future in futures)
            return _gather(results, source.splits[0], len(images))
        except BrokenProcessPool as error:
            raise UserError(
                f'a process that read images of {source.name} was killed; images may be too '
                f'large for the memory: try fewer than --jobs {jobs}'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _gather(chunks: Iterable[Seen], title: str, total: int) -> Seen:
    sum_ = Seen([])
    done = 0
    with progress_bar() as progress:
        task = progress.add_task(title, total=total)
        for seen in chunks:
            sum_ = _sum(sum_, seen)
            done = min(done + CHUNK, total)
            progress.update(task, completed=done)
    return sum_


def _sum(first: Seen, second: Seen) -> Seen:
    return Seen(
        first.findings + second.findings,
        first.read + second.read,
        first.values + second.values,
        first.files + second.files,
    )


def _one_thread() -> None:
    """One thread for each process; OpenCV takes all cores otherwise."""
    cv2.setNumThreads(0)


def look_at_some(images: Sequence[ImageFile], source: Source, decode: bool) -> Seen:
    """What is in these images and their label maps."""
    sum_ = Seen([])
    for image in images:
        findings = list(check_image(image.path, image.size))
        if decode and not any(finding.error for finding in findings):
            findings += _decode(image.path, source.backend)
        sum_ = _sum(sum_, Seen(findings))
        if image.labels is not None:
            sum_ = _sum(sum_, _look_at_labels(image, source))
    return sum_


def _count_some(images: Sequence[ImageFile], source: Source) -> Seen:
    return reduce(_sum, (_look_at_labels(image, source) for image in images), Seen([]))


def _decode(path: str, backend: str) -> Iterator[Finding]:
    from mmcv.transforms import LoadImageFromFile

    try:
        LoadImageFromFile(imdecode_backend=backend)({'img_path': path})
    except Exception as error:  # decoders raise what they like
        yield Finding('unreadable image', path, f'{type(error).__name__}: {error}')


def _look_at_labels(image: ImageFile, source: Source) -> Seen:
    import mmcv

    row = image.labels or {}
    path = row['seg_map_path']
    if source.label_backend is None and source.converted:  # it may be of any format
        broken = check_file(path)
        return Seen([broken] if broken else [])
    findings = list(check_label_map(path, image_size(image.path)))
    if findings:
        return Seen(findings)
    try:  # as mmseg's LoadAnnotations does
        content = Path(path).read_bytes()
        labels = mmcv.imfrombytes(
            content, flag='unchanged', backend=source.label_backend or 'pillow'
        )
        values = np.bincount(labels.astype(np.uint8).ravel(), minlength=256)
    except Exception as error:  # as above
        return Seen([Finding('unreadable image', path, f'{type(error).__name__}: {error}')])
    trained = trained_labels(bool(row.get('reduce_zero_label')), row.get('label_map'))
    present = np.unique(trained[values > 0])
    wrong = wrong_labels(present, len(source.classes), source.ignore) if source.classes else ''
    kind = 'labels as loaded' if source.converted else 'label out of range'
    return Seen(
        [Finding(kind, path, wrong)] if wrong else [],
        1,
        values,
        np.bincount(present, minlength=256),
    )
