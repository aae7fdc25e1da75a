"""Annotations in COCO's format, as they lie in a user's folder."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbackbones.data.annotations import read_coco
from vitbackbones.data.fixing import fix
from vitbackbones.data.values import is_id
from vitbackbones.errors import UserError

from .annotated import Annotated, InPlace, look_at_all
from .image_places import image_folder, image_places
from .own_data import Task
from .picture import Notes, Picture, Thing
from .tree import Tree, purpose_of_file, stem

_OTHERS = ('captions_', 'person_keypoints_', 'stuff_', 'panoptic_', 'image_info_')
_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def find_coco(tree: Tree) -> tuple[str, ...]:
    """The annotation files of a folder.

    Where there are others, those of captions, keypoints and the like are none of them.
    """
    files = [file for file in tree.ending('.json') if _has_keys(Path(tree.full(file)))]
    return tuple([file for file in files if not stem(file).startswith(_OTHERS)] or files)


def _has_keys(path: Path) -> bool:
    """Whether it looks like an annotation file; it may have hundreds of megabytes."""
    try:
        if not path.stat().st_size:
            return False
        with (
            path.open('rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return all(data.find(key) >= 0 for key in _KEYS)
    except OSError:
        return False


@dataclass
class _File:
    """An annotation file.

    Attributes:
        content: its ``images``, ``annotations`` and ``categories``.
        images: the folder that the names of its images are below, relative to the user's;
            None if there is none.
    """

    name: str
    path: Path
    content: Mapping[str, Any]
    images: str | None = None

    def names(self) -> list[str]:
        """Of its images."""
        return [str(row['file_name']) for row in self.content['images']]


def read(
    tree: Tree, names: Sequence[str], task: Task | None, classes: Sequence[str] | None
) -> Annotated:
    """Read annotation files.

    Args:
        names: of the files, from :func:`find_coco`.
        task: what is wanted of them; None for what they have.
        classes: those to be learnt; None for all.

    Raises:
        UserError: they cannot be read or are not right.
    """
    notes = Notes(tree.root)
    files = {split: _load(tree, name) for split, name in _by_split(tree, names).items()}
    task = _task(files.values(), task)
    for split, file in files.items():
        found = read_coco(file.path, masks=task == 'masks', test=split != 'train')
        errors = [finding for finding in found.findings if finding.error]
        if errors:
            more = f', and {len(errors) - 1} more problems' if len(errors) > 1 else ''
            raise UserError(f'{errors[0]} ({errors[0].kind}){more}')
        file.content = fix(str(file.path), file.content, None, ordered=False).content
        file.images = image_folder(tree, file.name, file.names(), split)
    every = _classes(files, notes)
    if classes is None:
        classes = every
    elif not {*classes} & {*every}:
        raise UserError(
            f'{next(iter(files.values())).path} has none of the classes {", ".join(classes)}: '
            f'its classes are {", ".join(every)}'
        )
    annotated = Annotated('COCO JSON', task, tuple(classes), {}, notes)
    for split, file in files.items():
        annotated.splits[split] = pictures = _pictures(tree, file, classes, task, notes)
        if file.images is not None and len(pictures) == len(file.content['images']):
            annotated.in_place[split] = InPlace(tree.root / file.images, file.path)
    return annotated


def _by_split(tree: Tree, names: Sequence[str]) -> dict[str, str]:
    """The file of each split; a single file is 'train', whatever its name."""
    if len(names) == 1:
        return {'train': names[0]}
    files: dict[str, str] = {}
    for name in names:
        split = purpose_of_file(name)
        if split is None:
            raise UserError(
                f'{tree.root} has {len(names)} annotation files, and the name of {name} does not '
                'say whether it is for train, val or test'
            )
        if split in files:
            raise UserError(
                f'{tree.root}: {files[split]} and {name} are both for {split}: '
                'leave one of them in the folder'
            )
        files[split] = name
    if 'train' not in files:
        there = ' and '.join(f'{split} ({name})' for split, name in files.items())
        raise UserError(f'{tree.root} has annotation files for {there}, none for train')
    return {split: files[split] for split in ('train', 'val', 'test') if split in files}


def _load(tree: Tree, name: str) -> _File:
    path = Path(tree.full(name))
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ('images', 'annotations', 'categories')
    ):
        raise UserError(f'{path} has no lists of images, annotations and categories')
    return _File(name, path, content)


# ------------------------------------------------------------------------------------- masks


def _task(files: Collection[_File], wanted: Task | None) -> Task:
    """Boxes or masks, by what the annotations have."""
    masks, boxes = 0, 0
    without = with_one = ''
    for file in files:
        rows = [row for row in file.content['annotations'] if isinstance(row, dict)]
        if rows and not any(row.get('bbox') for row in rows):
            raise UserError(f'{file.path} has no boxes: captions or points alone cannot be learnt')
        for row in rows:
            if row.get('segmentation') and not _is_box(row):
                masks, with_one = (
                    masks + 1,
                    with_one or f'annotation {row.get("id")} of {file.path}',
                )
            elif not row.get('segmentation'):
                boxes, without = boxes + 1, without or f'annotation {row.get("id")} of {file.path}'
    if wanted is not None:
        return wanted
    if masks and boxes:
        raise UserError(
            f'{masks} annotations have masks, such as {with_one}, and {boxes} have none, such as '
            f'{without}: choose a --head that learns boxes (retinanet) or masks (mask_rcnn)'
        )
    return 'masks' if masks else 'boxes'


def _is_box(row: Mapping[str, Any]) -> bool:
    """Whether a mask is no more than the box once again, as some exports write it."""
    box, mask = row.get('bbox'), row['segmentation']
    if not (isinstance(box, list) and len(box) == 4 and isinstance(mask, list) and len(mask) == 1):
        return False
    try:
        x, y, w, h = map(float, box)
        points = {*zip(map(float, mask[0][::2]), map(float, mask[0][1::2]), strict=True)}
    except (TypeError, ValueError):
        return False
    corners = {(x, y), (x + w, y), (x, y + h), (x + w, y + h)}
    return len(points) == 4 and all(
        any(abs(px - cx) < 0.5 and abs(py - cy) < 0.5 for px, py in points) for cx, cy in corners
    )


# ----------------------------------------------------------------------------------- classes


def _classes(files: Mapping[str, _File], notes: Notes) -> tuple[str, ...]:
    """Names of categories in the order of the training's file, those of other files behind."""
    used: Counter[str] = Counter()
    above: set[str] = set()
    names: dict[str, str] = {}
    for file in files.values():
        rows = file.content['categories']
        by_id = {row['id']: str(row['name']) for row in rows}
        names.update({name: file.name for name in by_id.values() if name not in names})
        above |= {str(row.get('supercategory')) for row in rows if _is_below_another(row)}
        used.update(by_id[row['category_id']] for row in file.content['annotations'])
    # Roboflow lists the project as a category above the others.
    for name in [name for name in names if name in above and not used[name]]:
        if len(names) > 1 and any(used[other] for other in names):
            notes.add('categories above others, without objects', name, 'no classes')
            del names[name]
    return tuple(names)


def _is_below_another(category: Mapping[str, Any]) -> bool:
    return category.get('supercategory') not in (None, category['name'])


# ------------------------------------------------------------------------------------ images


def _pictures(
    tree: Tree, file: _File, classes: Sequence[str], task: Task, notes: Notes
) -> list[Picture]:
    """Those images that are there, with their objects."""
    rows, paths = [], []
    places = image_places(tree, file.name, file.names(), file.images)
    for row, path in zip(file.content['images'], places, strict=True):
        if path is None:
            notes.add('annotated images that are not there', str(row['file_name']), 'left out')
        else:
            rows.append(row)
            paths.append(path)
    sizes = [(int(row['width']), int(row['height'])) for row in rows]
    pictures = look_at_all(paths, notes, sizes)
    by_id = {row['id']: picture for row, picture in zip(rows, pictures, strict=True)}
    labels = {name: place for place, name in enumerate(classes)}
    listed = {row['id'] for row in file.content['images']}
    names = {row['id']: str(row['name']) for row in file.content['categories']}
    for row in file.content['annotations']:
        if not is_id(row['image_id']) or row['image_id'] not in listed:
            notes.add('objects of images that are not listed', str(row['id']), 'left out')
            continue
        picture, name = by_id.get(row['image_id']), names[row['category_id']]
        if picture is None or row.get('ignore'):
            continue
        if name in labels:
            picture.things.append(_thing(row, labels[name], task))
        else:
            notes.add('objects of classes that are not chosen', name, 'left out')
    return [picture for picture in pictures if picture]


def _thing(row: Mapping[str, Any], label: int, task: Task) -> Thing:
    x, y, w, h = row['bbox']
    mask = row.get('segmentation') if task == 'masks' else None
    crowd = bool(row.get('iscrowd'))
    if task == 'masks' and not mask:
        mask, crowd = [[x, y, x + w, y, x + w, y + h, x, y + h]], True
    return Thing(label, (x, y, w, h), mask or None, row.get('area') if mask else None, crowd)
