"""What is wrong with an annotation file in COCO's format; nothing but the file is read."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .counts import Fate, Rows, Tally
from .findings import Finding
from .fixing import fix
from .masks import mask_problem
from .values import is_id, is_number, listed

#: Boxes of COCO's own files reach beyond the image by rounding.
TOLERANCE = 1.0


class Coco(NamedTuple):
    """An annotation file as far as it could be read.

    Attributes:
        findings: what is wrong with it.
        sizes: (file name, width, height) of each image, None where the file does not say.
        annotations: their number.
        rows: what becomes of each of them; None if there are none to tell of.
        fixed: those of ``findings`` that a copy of the file puts right, see :func:`read_contents`.
        as_it_is: what is wrong for those who read the file itself.
    """

    findings: tuple[Finding, ...]
    sizes: tuple[tuple[str, Any, Any], ...] = ()
    annotations: int = 0
    rows: Rows | None = None
    fixed: tuple[Finding, ...] = ()
    as_it_is: tuple[Finding, ...] = ()


class Contents(NamedTuple):
    """What an annotation file holds; of both the images are the same, in the same order.

    Attributes:
        fixed: as mmdet and pycocotools want it, see :func:`~.fixing.fix`.
        raw: as it is in the file.
    """

    fixed: Mapping[str, Any]
    raw: Mapping[str, Any]


def read_coco(
    path: Path,
    classes: Sequence[str] | None = None,
    *,
    masks: bool = False,
    test: bool = False,
    ordered: bool = True,
    by_class: bool = False,
) -> Coco:
    """Read and check an annotation file; not read again as long as it stays the same.

    Args:
        classes: names of those that are trained; None for all.
        masks: whether masks are loaded: they are checked only then.
        test: whether it is for comparing results.
        ordered: whether the dataset numbers its classes by the order of the file's categories.
        by_class: whether results are listed class by class, see :func:`~.fixing.fix`.
    """
    try:
        stat = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        unreadable = (Finding('unreadable annotation file', str(path), reason),)
        return Coco(unreadable, as_it_is=unreadable)
    chosen = None if classes is None else tuple(classes)
    return _read_coco(
        path, chosen, masks, test, ordered, by_class, (stat.st_mtime_ns, stat.st_size)
    )


@lru_cache(maxsize=16)
def _read_coco(
    path: Path,
    classes: tuple[str, ...] | None,
    masks: bool,
    test: bool,
    ordered: bool,
    by_class: bool,
    version: tuple[int, int],
) -> Coco:
    try:
        fixed, raw, changes = _parse(
            path, classes, masks=masks, test=test, ordered=ordered, by_class=by_class
        )
    except ValueError as error:
        unreadable = (Finding('unreadable annotation file', str(path), str(error)),)
        return Coco(unreadable, as_it_is=unreadable)
    # Where there is not one mask, that is said, and not of each object.
    some = masks and any(
        row.get('segmentation') for row in fixed['annotations'] if isinstance(row, dict)
    )
    whole = []
    if not fixed['images']:
        whole.append(Finding('no images', str(path), 'it lists no images'))
    elif fixed['annotations'] and masks and not some:
        count = len(fixed['annotations'])
        detail = f'none of its {count} annotations has a segmentation, and masks are wanted'
        whole.append(Finding('no masks', str(path), detail))
    check = _Check(str(path), fixed, classes, some)
    findings = [*changes, *check.run(), *whole]
    sizes = tuple(
        (image['file_name'], image.get('width'), image.get('height'))
        for image in check.images.values()
        if isinstance(image.get('file_name'), str)
    )
    copied = tuple(finding for finding in changes if not finding.error)
    as_it_is = findings
    if copied:
        as_it_is = [*copied, *_Check(str(path), raw, classes, some).run(), *whole]
    return Coco(
        tuple(findings),
        sizes,
        len(fixed['annotations']),
        check.tally.rows(),
        copied,
        tuple(as_it_is),
    )


def read_contents(
    path: Path,
    classes: Sequence[str] | None,
    *,
    masks: bool = False,
    test: bool = False,
    ordered: bool = True,
    by_class: bool = False,
) -> Contents:
    """What a file holds, with the arguments of :func:`read_coco`.

    Raises:
        ValueError: it cannot be read.
    """
    fixed, raw, _ = _parse(
        path, classes, masks=masks, test=test, ordered=ordered, by_class=by_class
    )
    return Contents(fixed, raw)


def _parse(
    path: Path,
    classes: Sequence[str] | None,
    *,
    masks: bool,
    test: bool,
    ordered: bool,
    by_class: bool,
) -> tuple[Mapping[str, Any], Mapping[str, Any], tuple[Finding, ...]]:
    """The content made right, the content as it is, and what is the difference.

    Raises:
        ValueError: in words, why it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not data:
        raise ValueError('it is empty')
    collecting = gc.isenabled()
    gc.disable()  # it would look through millions of new objects again and again, for nothing
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'no JSON: {error}') from error
    finally:
        if collecting:
            gc.enable()
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f'it holds a {kind}, not an object with {", ".join(keys)}')
    if 'images' in content:  # nobody has annotated them
        content.setdefault('annotations', [])
    for key in keys:
        if not isinstance(content.get(key), list):
            raise ValueError(f'it has no list of {key}')
    fixed, findings = fix(
        str(path), content, classes, masks=masks, evaluated=test, ordered=ordered, by_class=by_class
    )
    encoding = json.detect_encoding(data)
    if encoding != 'utf-8':  # pycocotools reads nothing else, and no mark at its beginning
        detail = f'it is written in {encoding}, not in plain utf-8'
        findings = (Finding('another encoding', str(path), detail), *findings)
    return fixed, content, findings


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
        names = {*self.categories.values()}
        missing = [name for name in self.classes or () if name not in names]
        if missing and self.content['annotations']:  # mmdet would shift the labels of the others
            yield self._found(
                'class without category',
                f'it has no class {listed(missing)}; its classes are '
                f'{listed(self.categories.values())}: set metainfo=dict(classes=(...)) in every '
                'dataset of the config, or add the category',
            )
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
        return (row for row in self.content[key] if isinstance(row, dict) and is_id(row.get('id')))

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
            elif not is_id(row['id']):
                yield self._found('missing field', f'{key}[{number}] has the id {row["id"]!r:.40}')

    def _duplicates(self, key: str) -> Iterator[Finding]:
        for value, count in Counter(row['id'] for row in self._rows(key)).items():
            if count > 1:
                yield self._found('duplicate id', f'{count} {key} have the id {value}')

    def _size(self, image: Mapping[str, Any]) -> Iterator[Finding]:
        name = image.get('file_name')
        if name is not None and not isinstance(name, str):
            yield self._found('missing field', f'{_image(image)} has no name but {name!r:.40}')
        for key in ('width', 'height'):
            value = image.get(key)
            if value is not None and not (is_number(value) and value >= 1):
                yield self._found('missing field', f'{_image(image)} has the {key} {value!r:.40}')

    def _annotation(self, row: Mapping[str, Any]) -> Iterator[Finding]:
        image_id, category = row.get('image_id'), row.get('category_id')
        image = self.images.get(image_id) if is_id(image_id) else None
        where = f'annotation {row["id"]}' + (f' of {image.get("file_name")}' if image else '')
        fate = Fate.OBJECT
        if image is None:
            fate = Fate.UNKNOWN_IMAGE
            if image_id is not None:
                yield self._found('unknown image', f'{where}: image_id {image_id!r:.40}')
        name = self.categories.get(category) if is_id(category) else None
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
            problem = mask_problem(mask, image) if self.masks and image is not None else None
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
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))


def _box_problem(box: Any, area: Any, image: Mapping[str, Any] | None) -> str | None:
    if not _is_box(box):
        return 'box not finite'
    if area is not None and not is_number(area):
        return 'box not finite'
    x, y, w, h = box
    if w < 1 or h < 1 or (area is not None and area <= 0):  # as mmdet's CocoDataset has it
        return 'box without area'
    if image is None or not (is_number(image.get('width')) and is_number(image.get('height'))):
        return None
    width, height = image['width'], image['height']
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return 'box outside'
    if min(x, y, width - x - w, height - y - h) < -TOLERANCE:
        return 'box across the edge'
    return None


def _image(image: Mapping[str, Any]) -> str:
    return f'image {image.get("id")} ({image.get("file_name")})'
