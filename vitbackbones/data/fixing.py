"""Annotations in COCO's format as mmdet and pycocotools take them, from what can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .findings import Finding
from .masks import mask_area
from .values import folded, is_id, is_number, listed

#: Changes whenever :func:`fix` makes something else of a file.
VERSION = 4


class Fixed(NamedTuple):
    """What an annotation file holds, made right.

    Attributes:
        content: the file's own where nothing had to be changed; rows are never changed in place.
        findings: what was changed, and what cannot be made right because it is ambiguous.
    """

    content: Mapping[str, Any]
    findings: tuple[Finding, ...]


def fix(
    path: str,
    content: Mapping[str, Any],
    classes: Sequence[str] | None,
    *,
    masks: bool = False,
    evaluated: bool = False,
    ordered: bool = True,
    by_class: bool = False,
) -> Fixed:
    """Make right what is unambiguous in a file; what is left is for the checks to name.

    mmdet numbers classes by the order of the file's categories, takes two categories of one name
    for two classes, and matches ids by type; pycocotools needs ``iscrowd`` and ``area``, and takes
    an annotation with the id 0 for one that was never found.

    Args:
        path: the file, for the findings.
        content: its ``images``, ``annotations`` and ``categories``, all lists.
        classes: names in the order of their labels; None for all, in the order of the file.
        masks: whether masks are trained or evaluated.
        evaluated: whether pycocotools matches annotations by their ids.
        ordered: whether labels follow the order of the categories.
        by_class: whether mmdet lists results class by class: it takes them in the order of the
            categories from pycocotools, which has them in the order of their ids.
    """
    work = _Mending(path, content, classes)
    work.ids()
    if evaluated:
        work.annotation_ids()
    work.category_names()
    work.categories_left_out(evaluated)
    if ordered:
        work.category_order()
        if by_class:
            work.ascending_ids()
    work.optional_fields(masks, evaluated)
    return Fixed(work.content, tuple(work.findings))


class _Mending:
    """The steps of :func:`fix`, each of which builds on those before."""

    def __init__(
        self, path: str, content: Mapping[str, Any], classes: Sequence[str] | None
    ) -> None:
        self.path = path
        self.content: dict[str, Any] = dict(content)
        self.places = None if classes is None else {name: i for i, name in enumerate(classes)}
        self.findings: list[Finding] = []

    # --------------------------------------------------------------------------------- ids

    def ids(self) -> None:
        """Ids of images and categories of one type, and references that are such ids."""
        for key, field in (('images', 'image_id'), ('categories', 'category_id')):
            new = self._new_ids(key, numbers=key == 'categories')
            if new is None:
                continue
            texts = {str(old): value for old, value in new.items()}
            self._replace(key, 'id', partial(_look_up, new, {}))
            first = self._replace('annotations', field, partial(_look_up, new, texts))
            if first is not None:
                self._found(
                    'ids of other types',
                    f'annotations have the {field} {first!r}, {key} ids of another type',
                )

    def annotation_ids(self) -> None:
        """Numbers from 1 on, if one is no number above 0."""
        ids = [row.get('id') for row in self._rows('annotations')]
        wrong = [i for i in ids if not _is_whole(i) or i == 0]
        # Two of one id, and those without any, are reported as they are.
        if wrong and all(map(is_id, map(_whole, ids))) and len({*map(_whole, ids)}) == len(ids):
            numbers = {old: number for number, old in enumerate(map(_whole, ids), start=1)}
            self._replace('annotations', 'id', lambda old: numbers[_whole(old)])
            kind = 'annotation id 0' if wrong == [0] else 'annotation ids as text'
            self._found(kind, f'annotations have ids such as {wrong[0]!r}')

    def _new_ids(self, key: str, *, numbers: bool) -> dict[int | str, int | str] | None:
        """What is to stand for each id of a list; None where two rows cannot be told apart.

        Args:
            numbers: whether text will not do even if all ids are text.
        """
        ids = [i for i in (_whole(row.get('id')) for row in self._rows(key)) if is_id(i)]
        same = {i: i for i in ids}
        if len(same) != len(ids):
            return None
        texts = [i for i in ids if isinstance(i, str)]
        if not texts or (len(texts) == len(ids) and not numbers):
            return same
        if len({str(i).strip() for i in ids}) < len(ids):
            two = next(i for i in texts if i.strip() in {str(j) for j in ids if j != i})
            self._found('ids of two types', f'{key} have the ids {two!r} and {two.strip()}')
            return None
        new: list[int | str]
        if all(text.strip().isdecimal() for text in texts):
            new = [int(i) for i in ids]
        elif numbers:
            new = list(range(1, len(ids) + 1))
        else:
            new = [str(i) for i in ids]
        if len(set(new)) < len(new):  # 1 and 01
            new = list(range(1, len(ids) + 1))
        self._found('ids of other types', f'{key} have ids such as {texts[0]!r}')
        return dict(zip(ids, new, strict=True))

    def _replace(self, key: str, field: str, new: Callable[[Any], Any]) -> Any:
        """Put another value where ``new`` gives one of another type or value; the first such."""
        first, rows = None, []
        for row in self.content[key]:
            if isinstance(row, dict) and row.get(field) is not None:
                old = row[field]
                value = new(old)
                if value is not None and (type(value) is not type(old) or value != old):
                    row, first = {**row, field: value}, old if first is None else first
            rows.append(row)
        if first is not None:
            self.content[key] = rows
        return first

    # -------------------------------------------------------------------------- categories

    def category_names(self) -> None:
        """One category for each name that is trained, the one that has annotations."""
        for row in self._rows('categories'):  # mmdet looks for text
            if is_number(row.get('name')):
                self._replace('categories', 'name', str)
                self._found('name that is no text', f'a category has the name {row["name"]!r}')
                break
        by_name: dict[str, list[Any]] = {}
        for row in self._rows('categories'):
            if is_id(row.get('id')) and self._is_chosen(row):
                by_name.setdefault(row['name'], []).append(row['id'])
        twice = {name: ids for name, ids in by_name.items() if len(ids) > 1}
        if not twice:
            return
        counts = Counter(
            row['category_id'] for row in self._rows('annotations') if is_id(row.get('category_id'))
        )
        for name, ids in twice.items():
            used = [i for i in ids if counts[i]]
            if len({*ids}) < len(ids):
                continue  # rows of one id are reported as they are
            if len(used) > 1:
                each = ', '.join(f'{i} with {counts[i]} annotations' for i in used)
                self._found('two categories of one name', f'{name!r} is the name of {each}')
                continue
            kept = used[0] if used else ids[0]
            self.content['categories'] = [
                row
                for row in self.content['categories']
                if not isinstance(row, dict) or row.get('name') != name or row.get('id') == kept
            ]
            self._found(
                'category without use',
                f'{name!r} is the name of categories {", ".join(map(str, ids))}: only {kept} '
                f'{"has" if used else "is taken to have"} annotations',
            )

    def categories_left_out(self, evaluated: bool) -> None:
        """A category for each class that has none, as exports list only those that occur.

        Not where the names of the classes may be wrong: no class has a category, a category that
        has annotations is almost named as the class, or is none of the classes that are trained.
        """
        annotated = bool(self.content['annotations'])
        if self.places is None or not (annotated or evaluated):
            return
        names = {
            row['id']: str(row.get('name'))
            for row in self._rows('categories')
            if is_id(row.get('id'))
        }
        missing = [name for name in self.places if name not in names.values()]
        used = {*map(_hashable, (row.get('category_id') for row in self._rows('annotations')))}
        others = {names[i] for i in used & {*names}} - {*self.places}
        alike = {*map(folded, missing)} & {*map(folded, others)}
        wrong = len(missing) == len(self.places) or not used <= {*names} or alike
        if not missing or (annotated and (wrong or (others and not evaluated))):
            return
        free = max((i for i in names if isinstance(i, int)), default=0) + 1
        added = [dict(id=i, name=name) for i, name in enumerate(missing, start=free)]
        self.content['categories'] = [*self.content['categories'], *added]
        self._found('category left out', f'it has no category for {listed(missing)}')

    def category_order(self) -> None:
        """The chosen categories in the order of the classes, and behind them the others."""
        places = self.places
        if places is None:
            return
        chosen = [row for row in self._rows('categories') if self._is_chosen(row)]
        ordered = sorted(chosen, key=lambda row: places[row['name']])
        if ordered == chosen:
            return
        others = [row for row in self._rows('categories') if not self._is_chosen(row)]
        self.content['categories'] = ordered + others
        self._found(
            'categories in another order',
            f'its categories are {listed(row["name"] for row in chosen)}, the classes '
            f'{listed(row["name"] for row in ordered)}',
        )

    def ascending_ids(self) -> None:
        """Ids of categories that ascend in their order."""
        ids = [row['id'] for row in self._rows('categories') if _is_whole(row.get('id'))]
        used = {*map(_hashable, (row.get('category_id') for row in self._rows('annotations')))}
        if len({*ids}) < len(self.content['categories']) or not used <= {*ids}:
            return  # is reported
        if sorted(ids) == ids:
            return
        new = {old: number for number, old in enumerate(ids, start=1)}
        self._replace('categories', 'id', partial(_look_up, new, {}))
        self._replace('annotations', 'category_id', partial(_look_up, new, {}))
        self._found(
            'categories in another order', 'the ids of its categories do not ascend in their order'
        )

    def _is_chosen(self, category: Mapping[str, Any]) -> bool:
        name = category.get('name')
        return isinstance(name, str) and (self.places is None or name in self.places)

    # --------------------------------------------------------------------- optional fields

    def optional_fields(self, masks: bool, evaluated: bool) -> None:
        """``iscrowd``, ``area`` and, where others have one, ``segmentation``."""
        some = masks and any(row.get('segmentation') for row in self._rows('annotations'))
        counts: Counter[str] = Counter()
        rows = []
        for row in self.content['annotations']:
            if isinstance(row, dict):
                new = _supplied(row, masks=some, evaluated=evaluated)
                if new:
                    counts.update(field for field in new if not is_number(row.get(field)))
                    row = {**row, **new}
            rows.append(row)
        if not counts:
            return
        self.content['annotations'] = rows
        for kind, field in (
            ('optional field left out', 'iscrowd'),
            ('optional field left out', 'area'),
            ('box for a mask' if evaluated else 'object without mask', 'segmentation'),
        ):
            if counts[field]:
                self._found(kind, f'{counts[field]} of {len(rows)} annotations have no {field}')

    # ------------------------------------------------------------------------------ common

    def _rows(self, key: str) -> Iterator[Mapping[str, Any]]:
        return (row for row in self.content[key] if isinstance(row, dict))

    def _found(self, kind: str, detail: str) -> None:
        self.findings.append(Finding(kind, self.path, detail))


def _supplied(row: Mapping[str, Any], *, masks: bool, evaluated: bool) -> dict[str, Any]:
    """The fields of an annotation that COCO makes optional, as far as it lacks them."""
    new: dict[str, Any] = {}
    crowd, box = row.get('iscrowd'), row.get('bbox')
    if crowd is None:
        new['iscrowd'] = 0
    elif isinstance(crowd, str) and crowd in ('0', '1'):  # '0' would count as true
        new['iscrowd'] = int(crowd)
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return new  # is reported
    x, y, w, h = box
    if row.get('area') is None:
        new['area'] = mask_area(row.get('segmentation')) or w * h
    if masks and not row.get('segmentation') and not row.get('ignore'):
        new['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if not evaluated:
            # A region that is neither object nor background; its box as the mask would be learnt.
            new['iscrowd'] = 1
    return new


def _look_up(new: Mapping[Any, Any], texts: Mapping[str, Any], old: Any) -> Any:
    """What stands for an id, by its type, else by its text; None for what is no id of these."""
    old = _whole(old)
    if not is_id(old):
        return None
    value = new.get(old)
    return texts.get(str(old).strip()) if value is None else value


def _hashable(value: Any) -> Any:
    return value if is_id(value) else None


def _whole(value: Any) -> Any:
    """1 for 1.0: json has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
