"""Annotations in Pascal VOC's format: an XML file for each image, with boxes in pixels."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from vitbackbones.errors import UserError

from .annotated import Annotated, look_at_all
from .class_list import find_class_list, read_class_list
from .given_splits import given_splits, shared_end
from .looking import over_files
from .own_data import Task
from .picture import Notes, Picture, Thing
from .tree import Tree, purpose, stem

_ROOT = re.compile(rb'<annotation[\s>]')
_START = 4096  # bytes of a file that its first element is looked for in


class Box(NamedTuple):
    """An object of an XML file, in its coordinates: the first and the last column and row."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class Xml(NamedTuple):
    """An XML file.

    Attributes:
        image: the name of its image, as it says.
        size: width and height of the image in pixels, as it says; None if it does not.
        polygons: whether an object has one.
    """

    image: str
    size: tuple[int, int] | None
    boxes: tuple[Box, ...]
    polygons: bool


def find_voc(tree: Tree) -> tuple[str, ...]:
    """The XML files of a folder that annotate an image."""
    return tuple(file for file in tree.ending('.xml') if _is_annotation(Path(tree.full(file))))


def read(
    tree: Tree, files: Sequence[str], task: Task | None, classes: Sequence[str] | None
) -> Annotated:
    """Read XML files.

    Args:
        files: from :func:`find_voc`.
        task: what is wanted of them.
        classes: names; None for those that occur, in the order of the alphabet.

    Raises:
        UserError: a file is not right.
    """
    if task == 'masks':
        raise UserError(f'{tree.root} has boxes in XML files, and masks are wanted')
    notes = Notes(tree.root)
    said: list[str] = []
    parsed = over_files(_parse, [tree.full(file) for file in files], 'annotations')
    xmls = dict(zip(files, parsed, strict=True))
    _check_sizes(tree, xmls)
    images = _images_of(tree, xmls, notes)
    names = _names(tree, xmls, classes)
    labels = {name: label for label, name in enumerate(names)}
    first = _first_pixel(xmls, said)
    for file, xml in xmls.items():
        if xml.polygons:
            notes.add('XML files with polygons', file, 'the boxes around them are learnt')
    annotated = Annotated('Pascal VOC', 'boxes', names, {}, notes, said=said)
    splits = given_splits(tree, [*xmls], said, lists='ImageSets/Main', half='XML file')
    for split, those in splits.items():
        with_image = [file for file in those if file in images]
        sizes = [xmls[file].size or (0, 0) for file in with_image]
        pictures = look_at_all([tree.full(images[file]) for file in with_image], notes, sizes)
        for picture, file in zip(pictures, with_image, strict=True):
            if picture is not None:
                _fill(picture, xmls[file], labels, first, notes)
        annotated.splits[split] = [picture for picture in pictures if picture]
    return annotated


def _fill(picture: Picture, xml: Xml, labels: Mapping[str, int], first: int, notes: Notes) -> None:
    for box in xml.boxes:
        left, top, right, bottom = box.corners
        x, y = left - first, top - first
        if box.difficult:
            notes.add('difficult objects', picture.path, 'neither learnt nor taken for errors')
        corners = (x, y, right - x, bottom - y)
        picture.things.append(Thing(labels[box.name], corners, crowd=box.difficult))


def _first_pixel(xmls: Mapping[str, Xml], said: list[str]) -> int:
    """What the first column is called: 1 in VOC itself, 0 by many tools."""
    corners = [value for xml in xmls.values() for box in xml.boxes for value in box.corners]
    zero = any(value < 1 or value % 1 for value in corners)
    said.append(
        f'pixels are counted from {0 if zero else 1}, as '
        + ('some coordinates are 0 or fractions' if zero else 'in Pascal VOC: none is 0')
    )
    return 0 if zero else 1


# --------------------------------------------------------------------------------------- files


def _is_annotation(path: Path) -> bool:
    try:
        with path.open('rb') as file:
            return _ROOT.search(file.read(_START)) is not None
    except OSError:
        return False


def _parse(path: str) -> Xml:
    """Read a file.

    Raises:
        UserError: it is no XML, or an object lacks its name or box.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    boxes = []
    for number, found in enumerate(root.findall('object'), start=1):
        name = (found.findtext('name') or '').strip()
        corners = [found.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        try:
            left, top, right, bottom = (float(corner or '') for corner in corners)
            whole = abs(left + top + right + bottom) < float('inf')
        except ValueError:
            whole = False
        if not name or not whole:
            what = 'no bndbox of four numbers' if name else 'no name'
            raise UserError(f'{path}: object {number} {f"({name}) " if name else ""}has {what}')
        difficult = (found.findtext('difficult') or '0').strip() in ('1', 'true')
        left, right = sorted((left, right))
        top, bottom = sorted((top, bottom))
        boxes.append(Box(name, (left, top, right, bottom), difficult))
    polygons = any(found.find('polygon') is not None for found in root.iter('object'))
    try:
        size = int(root.findtext('size/width') or ''), int(root.findtext('size/height') or '')
    except ValueError:
        return Xml(root.findtext('filename') or '', None, tuple(boxes), polygons)
    return Xml(root.findtext('filename') or '', size, tuple(boxes), polygons)


def _check_sizes(tree: Tree, xmls: Mapping[str, Xml]) -> None:
    """Stop where a size is missing: nothing else tells whether the boxes belong to the image."""
    wrong = [file for file, xml in xmls.items() if xml.size is None or min(xml.size) < 1]
    if wrong:
        size = xmls[wrong[0]].size
        what = f'the size {size[0]} x {size[1]}' if size else 'no size'
        more = f', and so {len(wrong) - 1} more files' if len(wrong) > 1 else ''
        raise UserError(
            f'{tree.full(wrong[0])} has {what}{more}: <size> must give <width> and <height> of the '
            'image in pixels'
        )


def _images_of(tree: Tree, xmls: Mapping[str, Xml], notes: Notes) -> dict[str, str]:
    """The image of each file: of its name, else the one that it says; the nearest of several."""
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for image in tree.images:
        by_stem[stem(image)].append(image)
        by_name[posixpath.basename(image)].append(image)
    images: dict[str, str] = {}
    for file, xml in xmls.items():
        found = by_stem.get(stem(file)) or by_name.get(xml.image.replace('\\', '/').split('/')[-1])
        if not found:
            notes.add('XML files without image', file, 'left out')
            continue
        images[file] = max(found, key=lambda image: _in_common(image, file))
    file_of: dict[str, str] = {}
    for file, image in images.items():
        other = file_of.setdefault(image, file)
        if other != file:
            raise UserError(
                f'{tree.full(other)} and {tree.full(file)} may both be of {image}: name folders of '
                'annotations as those of images'
            )
    used = {*images.values()}
    folders = {posixpath.dirname(image) for image in used}
    for image in tree.images:
        if image not in used and posixpath.dirname(image) in folders:
            notes.add('images without XML file', image, 'left out')
    return images


def _in_common(image: str, file: str) -> tuple[int, int, bool]:
    """How alike two paths are: folders that they share from the end and from the top, and split."""
    shared = 0
    for one, other in zip(image.split('/')[:-1], file.split('/')[:-1], strict=False):
        if one != other:
            break
        shared += 1
    same = shared_end(image, file)
    return same, shared, purpose(posixpath.dirname(image)) == purpose(posixpath.dirname(file))


# ------------------------------------------------------------------------------------- classes


def _names(tree: Tree, xmls: Mapping[str, Xml], classes: Iterable[str] | None) -> tuple[str, ...]:
    """Names of the classes, among which are all that occur.

    Raises:
        UserError: one is not.
    """
    used: dict[str, str] = {}
    for file, xml in xmls.items():
        for box in xml.boxes:
            used.setdefault(box.name, file)
    source = '--classes'
    if classes is None:
        listed = find_class_list(tree)
        if listed is None:
            return tuple(sorted(used))
        classes, source = [one.name for one in read_class_list(listed)], str(listed)
    names = tuple(classes)
    for name, file in used.items():
        if name not in names:
            raise UserError(
                f'{tree.full(file)} has the class {name}, which {source} does not list: '
                f'{", ".join(names)}'
            )
    return names
