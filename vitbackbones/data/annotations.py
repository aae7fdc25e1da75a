"""What is wrong with an annotation file in COCO's format; nothing but the file is read."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .counts import Fate, Rows, Tally
from .findings import Finding

#: Boxes of COCO's own files reach beyond the picture by rounding.
TOLERANCE = 1.0

_HUGE = 1e15  # more pixels than there are


class Coco(NamedTuple):
    """An annotation file as far as it could be read.

    Attributes:
        findings: what is wrong with it.
        sizes: (file name, width, height) of each picture, None where the file does not say.
        annotations: their number.
        rows: what becomes of each of them; None if there are none to tell of.
    """

    findings: tuple[Finding, ...]
    sizes: tuple[tuple[str, Any, Any], ...] = ()
    annotations: int = 0
    rows: Rows | None = None


def read_coco(
    path: Path, classes: Sequence[str] | None = None, *, masks: bool = False, test: bool = False
) -> Coco:
    """Read and check an annotation file; not read again as long as it stays the same.

    Args:
        classes: names of those that are trained; None for all.
        masks: whether masks are loaded: they are checked only then.
        test: whether the file may do without annotations.
    """
    try:
        stat = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        return Coco((Finding('unreadable annotation file', str(path), reason),))
    chosen = None if classes is None else tuple(classes)
    return _read_coco(path, chosen, masks, test, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=16)
def _read_coco(
    path: Path,
    classes: tuple[str, ...] | None,
    masks: bool,
    test: bool,
    version: tuple[int, int],
) -> Coco:
    def fails(why: str) -> Coco:
        return Coco((Finding('unreadable annotation file', str(path), why),))

    if not version[1]:
        return fails('it is empty')
    collecting = gc.isenabled()
    gc.disable()  # it would look through millions of new objects again and again, for nothing
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return fails(f'no JSON: {error}')
    finally:
        if collecting:
            gc.enable()
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict):
        return fails(f'it holds a {type(content).__name__}, not an object with {", ".join(keys)}')
    for key in keys if not test else ('images', 'categories'):
        if not isinstance(content.get(key), list):
            return fails(f'it has no list of {key}')
    content.setdefault('annotations', [])
    check = _Check(str(path), content, classes, masks)
    findings = list(check.run())
    if not content['images']:
        findings.append(Finding('no pictures', str(path), 'it lists no pictures'))
    elif not content['annotations'] and not test:
        findings.append(Finding('no annotations', str(path), 'it lists no annotations'))
    sizes = tuple(
        (image['file_name'], image.get('width'), image.get('height'))
        for image in check.images.values()
        if isinstance(image.get('file_name'), str)
    )
    return Coco(tuple(findings), sizes, len(content['annotations']), check.tally.rows())


class _Check:
    """The checks of one file's content."""

    def __init__(
        self, path: str, content: Mapping[str, Any], classes: Sequence[str] | None, masks: bool
    ) -> None:
        self.path = path
        self.content = content
        self.classes = classes
        self.masks = masks
        self.images: dict[Any, Mapping[str, Any]] = {}
        self.categories: dict[Any, str] = {}
        self.tally = Tally((), ())

    def run(self) -> Iterator[Finding]:
        for key, fields in (
            ('categories', ('id', 'name')),
            ('images', ('id', 'file_name', 'width', 'height')),
            ('annotations', ('id', 'image_id', 'category_id', 'bbox', 'area')),
        ):
            yield from self._fields(key, fields)
            yield from self._duplicates(key)
        for row in self._rows('categories'):
            self.categories[row.get('id')] = str(row.get('name'))
        for name in self.classes or ():
            if name not in self.categories.values():  # mmdet would shift the labels of the others
                yield self._found('class without category', f'no category is named {name!r}')
        for row in self._rows('images'):
            self.images.setdefault(row.get('id'), row)
            yield from self._size(row)
        self._positions = {image_id: place for place, image_id in enumerate(self.images)}
        self.tally = Tally(
            self.classes or tuple(dict.fromkeys(self.categories.values())),
            [(image.get('width'), image.get('height')) for image in self.images.values()],
        )
        for row in self._rows('annotations'):
            yield from self._annotation(row)

    def _rows(self, key: str) -> Iterable[Mapping[str, Any]]:
        """Those rows that are objects with an id that can be looked up."""
        return (row for row in self.content[key] if isinstance(row, dict) and _is_id(row.get('id')))

    def _fields(self, key: str, fields: Sequence[str]) -> Iterator[Finding]:
        for number, row in enumerate(self.content[key]):
            if not isinstance(row, dict):
                yield self._found('missing field', f'{key}[{number}] is no object but {row!r:.40}')
                continue
            missing = [field for field in fields if row.get(field) is None]
            if missing:
                yield self._found(
                    'missing field',
                    f'{key}[{number}] (id {row.get("id")}) has no {", ".join(missing)}',
                )
            elif not _is_id(row['id']):
                yield self._found('missing field', f'{key}[{number}] has the id {row["id"]!r:.40}')

    def _duplicates(self, key: str) -> Iterator[Finding]:
        for value, count in Counter(row['id'] for row in self._rows(key)).items():
            if count > 1:
                yield self._found('duplicate id', f'{count} {key} have the id {value}')

    def _size(self, image: Mapping[str, Any]) -> Iterator[Finding]:
        name = image.get('file_name')
        if name is not None and not isinstance(name, str):
            yield self._found('missing field', f'{_picture(image)} has no name but {name!r:.40}')
        for key in ('width', 'height'):
            value = image.get(key)
            if value is not None and not (_is_number(value) and value >= 1):
                yield self._found('missing field', f'{_picture(image)} has the {key} {value!r:.40}')

    def _annotation(self, row: Mapping[str, Any]) -> Iterator[Finding]:
        image_id, category = row.get('image_id'), row.get('category_id')
        image = self.images.get(image_id) if _is_id(image_id) else None
        where = f'annotation {row["id"]}' + (f' of {image.get("file_name")}' if image else '')
        fate = Fate.OBJECT
        if image is None:
            fate = Fate.UNKNOWN_IMAGE
            if image_id is not None:
                yield self._found('unknown picture', f'{where}: image_id {image_id!r:.40}')
        name = self.categories.get(category) if _is_id(category) else None
        if category is None or name is None:
            fate = Fate.BROKEN
            if category is not None:
                yield self._found('unknown category', f'{where}: category_id {category!r:.40}')
        elif self.classes is not None and name not in self.classes:
            yield self._found('class not chosen', f'{where}: {name}')
            self.tally.add(Fate.NOT_CHOSEN)
            return
        box, mask = row.get('bbox'), row.get('segmentation')
        known: Sequence[float] = box if isinstance(box, list) and _is_box(box) else ()
        if row.get('ignore'):
            fate = max(fate, Fate.IGNORED)
        else:
            kind = None if box is None else _box_problem(box, row.get('area'), image)
            if kind:
                area = f', area {row["area"]}' if kind == 'box without area' else ''
                yield self._found(kind, f'{where}: bbox {box!r:.80}{area}')
            problem = _mask_problem(mask, image) if self.masks and image is not None else None
            if problem:
                yield self._found(problem[0], f'{where}: {problem[1]}')
            fates = [_FATES.get(problem[0] if problem else '', Fate.OBJECT)]
            fates.append(Fate.BROKEN if box is None else _FATES.get(kind or '', Fate.OBJECT))
            if row.get('iscrowd'):
                fates.append(Fate.CROWD)
            elif self.masks and isinstance(mask, dict):
                fates.append(Fate.RUN_LENGTHS)
            fate = max(fate, *fates)
        self.tally.add(fate, self._positions[image_id] if image is not None else -1, name, known)

    def _found(self, kind: str, detail: str) -> Finding:
        return Finding(kind, self.path, detail)


# What becomes of an annotation with such a problem.
_FATES = {
    'box not finite': Fate.BROKEN,
    'box without area': Fate.NO_AREA,
    'box outside': Fate.OUTSIDE,
    'bad mask': Fate.BROKEN,
    'mask of another size': Fate.BROKEN,
    'mask without area': Fate.NO_MASK,
}


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _box_problem(box: Any, area: Any, image: Mapping[str, Any] | None) -> str | None:
    if not _is_box(box):
        return 'box not finite'
    if area is not None and not _is_number(area):
        return 'box not finite'
    x, y, w, h = box
    if w < 1 or h < 1 or (area is not None and area <= 0):  # as mmdet's CocoDataset has it
        return 'box without area'
    if image is None or not (_is_number(image.get('width')) and _is_number(image.get('height'))):
        return None
    width, height = image['width'], image['height']
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return 'box outside'
    if min(x, y, width - x - w, height - y - h) < -TOLERANCE:
        return 'box across the edge'
    return None


def _mask_problem(mask: Any, image: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and details; as mmdet's LoadAnnotations reads masks."""
    if not mask:
        return 'bad mask', 'there is none'
    if isinstance(mask, list):
        if not all(isinstance(part, list) for part in mask):
            return 'bad mask', f'a polygon must be a list of numbers, got {mask!r:.60}'
        if not all(map(_all_finite, mask)):
            return 'bad mask', 'a polygon has coordinates that are no finite numbers'
        if not any(len(part) >= 6 and len(part) % 2 == 0 for part in mask):
            return 'mask without area', 'no polygon has three points'
        return None
    if not isinstance(mask, dict):
        return 'bad mask', f'it is a {type(mask).__name__}, neither polygons nor run lengths'
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(counts, (list, str)) or not isinstance(size, list) or len(size) != 2:
        return 'bad mask', 'run lengths need size and counts'
    if size != [image.get('height'), image.get('width')]:
        return 'mask of another size', (
            f'run lengths for {size[1]} x {size[0]} pixels, the picture has '
            f'{image.get("width")} x {image.get("height")}'
        )
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if lengths is None:
        return 'bad mask', 'its compressed run lengths are cut off or damaged'
    if not all(isinstance(n, int) and n >= 0 for n in lengths):
        return 'bad mask', 'a run length is no number of pixels'
    if sum(lengths) != size[0] * size[1]:  # the rest would be whatever was in memory before
        return 'mask of another size', (
            f'its run lengths add up to {sum(lengths)} pixels, not {size[0] * size[1]}'
        )
    return None


def run_lengths(text: str) -> list[int] | None:
    """The run lengths of a mask that pycocotools has compressed; None where the text is damaged.

    A character less '0' is five bits of a number, from the lowest, and 32 if more follow; the
    highest bit of the last is the sign. From the fourth number on they are differences to the run
    before the last.
    """
    codes = np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8).astype(np.int64) - 48
    last = codes < 32
    if not codes.size or not last[-1] or codes.min() < 0 or codes.max() > 63:
        return None
    starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
    places = np.arange(codes.size) - np.repeat(starts, np.diff(starts, append=codes.size))
    if places.max() > 6:  # runs are numbers of 32 bits
        return None
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[last] & 16, 32 << 5 * places[last], 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers.tolist()


def _picture(image: Mapping[str, Any]) -> str:
    return f'picture {image.get("id")} ({image.get("file_name")})'


def _all_finite(numbers: Sequence[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # a single one that is not makes the sum so
    except (TypeError, OverflowError):
        return False


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; json reads NaN, and integers that are no float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE
