"""Annotations in YOLO's format: a text file for each image, with shares of its width and height."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vitbackbones.errors import UserError

from .annotated import Annotated, look_at_all
from .class_list import NAMES as CLASS_FILES
from .class_list import find_class_list, read_class_list
from .given_splits import given_splits
from .looking import over_files
from .own_data import Task
from .picture import Notes, Thing, around
from .tree import Tree
from .yolo_yaml import Description, find_description

#: Folders of images, and those that have their labels in the place of them.
IMAGE_FOLDERS = ('images', 'image', 'img', 'imgs')
LABEL_FOLDERS = ('labels', 'label', 'annotations')

#: Shares beyond this are no rounding, but pixels.
_MOST = 1.5


class Yolo(NamedTuple):
    """What of the format a folder has.

    Attributes:
        description: data.yaml; None if there is none.
        example: a file of labels.
    """

    description: Description | None
    example: str | None


class Row(NamedTuple):
    """A line of a file of labels: a box (x, y, width, height of its centre), or a polygon."""

    number: int
    label: int
    values: tuple[float, ...]


def find_yolo(tree: Tree) -> Yolo | None:
    """Whether a folder has a data.yaml, or files of numbers for its images.

    Raises:
        UserError: it has several data.yaml, or one that cannot be read.
    """
    description = find_description(tree)
    texts = _texts(tree)
    if not texts and description is None:
        return None
    for image in tree.images:
        for file in label_files(image):
            if file in texts and _is_of_numbers(Path(tree.full(file))):
                return Yolo(description, file)
    return Yolo(description, None) if description else None


def read(tree: Tree, found: Yolo, task: Task | None, classes: Sequence[str] | None) -> Annotated:
    """Read files of labels.

    Args:
        task: what is wanted of them; None for what they have.
        classes: names; None if the folder says.

    Raises:
        UserError: a file is not right, or a class is missing.
    """
    notes = Notes(tree.root)
    said: list[str] = []
    description = found.description
    if description:
        splits = description.splits(tree, said)
    else:
        given = given_splits(tree, tree.images, said, half='image')
        splits = {split: [tree.full(image) for image in those] for split, those in given.items()}
    texts = {tree.full(file) for file in _texts(tree)}
    keypoints = bool(description and description.keypoints)
    if keypoints:
        said.append('keypoints are not learnt, only the boxes before them')
    pairs = {
        split: {image: _label_file(image, texts, tree.root) for image in images}
        for split, images in splits.items()
    }
    files = sorted({file for those in pairs.values() for file in those.values() if file})
    if not files:
        images = [image for those in pairs.values() for image in those]
        raise UserError(
            f'{tree.root}: none of {len(images)} images has labels: for {images[0]} there is no '
            f'{" nor ".join(label_files(images[0]))}'
        )
    parsed = over_files(partial(_parse, boxes_alone=keypoints), files, 'labels')
    rows = dict(zip(files, parsed, strict=True))
    names = _names(tree, found, classes, rows, said)
    task = _task(rows, task, said)
    annotated = Annotated('YOLO', task, names, {}, notes, said=said)
    for split, of_images in pairs.items():
        shared = Counter(of_images.values())
        pictures = look_at_all([*of_images], notes)
        for picture, (image, file) in zip(pictures, of_images.items(), strict=True):
            if file is None and any(of_images.values()):
                notes.add(f'images of {split} without labels', image, 'taken to show nothing')
            if file is not None and shared[file] > 1:
                notes.add('images with labels that others have, too', image, f'by {file}')
            if picture is not None and file is not None:
                picture.things = [_thing(row, picture.size, task) for row in rows[file]]
        annotated.splits[split] = [picture for picture in pictures if picture]
    _note_labels_without_image(texts, {*rows}, tree, notes)
    return annotated


# -------------------------------------------------------------------------------------- files


def _texts(tree: Tree) -> frozenset[str]:
    return frozenset(
        file for file in tree.ending('.txt') if posixpath.basename(file) not in CLASS_FILES
    )


def label_files(image: str) -> list[str]:
    """Where the labels of an image may be: 'labels' for the last 'images', or beside it."""
    text = posixpath.splitext(image)[0] + '.txt'
    parts = text.split('/')
    places = []
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() in IMAGE_FOLDERS:
            for word in LABEL_FOLDERS:
                places.append('/'.join([*parts[:place], word, *parts[place + 1 :]]))
            break
    return [*places, text]


def _label_file(image: str, texts: frozenset[str] | set[str], root: Path) -> str | None:
    for file in label_files(image):
        if file in texts or (not Path(file).is_relative_to(root) and Path(file).is_file()):
            return file
    return None


def _is_of_numbers(path: Path) -> bool:
    """Whether a file looks like labels; an empty one does not."""
    try:
        with path.open(encoding='utf-8-sig') as file:
            return len([float(word) for word in file.readline(10_000).split()]) >= 5
    except (OSError, ValueError):
        return False


def _note_labels_without_image(texts: set[str], used: set[str], tree: Tree, notes: Notes) -> None:
    folders = {posixpath.dirname(file) for file in used}
    for file in sorted(texts - used):
        if posixpath.dirname(file) in folders and _is_of_numbers(Path(file)):
            notes.add('files of labels without image', file, 'left out')


# --------------------------------------------------------------------------------------- rows


def _parse(path: str, *, boxes_alone: bool) -> list[Row]:
    """The lines of a file of labels.

    Raises:
        UserError: one is not right.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    rows: dict[tuple[int, tuple[float, ...]], Row] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f'{path}, line {number}'
        try:
            label, values = float(words[0]), tuple(map(float, words[1:]))
        except ValueError:
            raise UserError(f'{where}: {line!r:.60} are not all numbers') from None
        if boxes_alone:
            values = values[:4]
        if label < 0 or label % 1:
            raise UserError(f'{where}: the class {words[0]} is no whole number from 0 on')
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise UserError(
                f'{where} has {len(words)} numbers, must have 5 for a box or 7, 9, 11 ... for a '
                'polygon'
            )
        if not all(-_MOST < value < _MOST for value in values):  # NaN, too
            wrong = next(value for value in values if not -_MOST < value < _MOST)
            raise UserError(
                f'{where} has the coordinate {wrong:g}: coordinates are shares of the width and '
                'height of the image, from 0 to 1'
            )
        rows.setdefault((int(label), values), Row(number, int(label), values))  # once each
    return [*rows.values()]


def _task(rows: Mapping[str, Sequence[Row]], wanted: Task | None, said: list[str]) -> Task:
    """Boxes or masks, by what the files have."""
    polygons, boxes, corners = 0, 0, 0
    box = polygon = ''
    for file, those in rows.items():
        for row in those:
            if len(row.values) == 4:
                boxes, box = boxes + 1, box or f'{file}, line {row.number}'
            else:
                polygons, polygon = polygons + 1, polygon or f'{file}, line {row.number}'
                corners += len(row.values) == 8
    if wanted == 'masks' and boxes:
        raise UserError(f'{box} has a box, and masks are wanted')
    if wanted is not None:
        return wanted
    if polygons and boxes:
        raise UserError(
            f'{polygons} lines are polygons, such as {polygon}, and {boxes} are boxes, such as '
            f'{box}: choose --head retinanet to learn the boxes of both'
        )
    if polygons and polygons == corners:
        said.append('all polygons have four corners: rotated boxes are learnt as masks')
    return 'masks' if polygons else 'boxes'


def _thing(row: Row, size: tuple[int, int], task: Task) -> Thing:
    if len(row.values) == 4:
        x, y, w, h = row.values
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        left, top, right, bottom = (_pixels(v, size[i % 2]) for i, v in enumerate(corners))
        return Thing(row.label, (left, top, right - left, bottom - top))
    polygon = [_pixels(value, size[i % 2]) for i, value in enumerate(row.values)]
    return Thing(row.label, around([polygon]), [polygon] if task == 'masks' else None)


def _pixels(share: float, side: int) -> float:
    """A coordinate in pixels; a whole number where that is what was rounded to six digits."""
    value = share * side
    return float(round(value)) if abs(value - round(value)) <= 2e-6 * side else value


# ------------------------------------------------------------------------------------ classes


def _names(
    tree: Tree,
    found: Yolo,
    classes: Sequence[str] | None,
    rows: Mapping[str, Sequence[Row]],
    said: list[str],
) -> tuple[str, ...]:
    """Names of the classes, which are at least as many as the labels need.

    Raises:
        UserError: they are not.
    """
    highest, where = -1, ''
    for file, those in rows.items():
        for row in those:
            if row.label > highest:
                highest, where = row.label, f'{file}, line {row.number}'
    names: Sequence[str] | None
    listed = None
    if classes is not None:
        names, source = classes, '--classes'
    elif found.description and found.description.names:
        names, source = found.description.names, found.description.path.name
    else:
        listed = find_class_list(tree)
        names = [one.name for one in read_class_list(listed)] if listed else None
        source = listed.name if listed else ''
    if names is None:
        number = max(highest + 1, found.description.number if found.description else 0)
        said.append(f'no file lists the classes: they are class_0 to class_{number - 1}')
        return tuple(f'class_{label}' for label in range(number))
    if highest >= len(names):
        raise UserError(
            f'{where} has the class {highest}, and {source} has {len(names)}: 0 to {len(names) - 1}'
        )
    return tuple(names)
