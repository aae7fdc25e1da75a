"""Images with label maps, made ready for mmseg's BaseSegDataset."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitbackbones.errors import UserError

from .annotated import common_folder, duplicates, look_at_all, validation_said
from .class_list import Named, find_class_list, palette, read_class_list
from .given_splits import given_splits
from .label_classes import Meaning, colours_of, interpret
from .label_values import Values, look_at_map, translate
from .looking import over_files
from .own_data import OwnData, Split
from .pairing import Pairing
from .picture import Notes, Picture
from .splitting import SPLITS, Item, choose_validation, told_apart
from .tree import Tree


class Labelled(NamedTuple):
    """An image and its label map, both absolute."""

    picture: Picture
    labels: str


class _Names(NamedTuple):
    """How the files of a split are called.

    Attributes:
        images, labels: the folders that the names are below.
        names: without suffixes.
    """

    images: Path
    labels: Path
    names: tuple[str, ...]


def read(
    tree: Tree,
    pairing: Pairing,
    listed: Sequence[Named] | None,
    source: Path | None,
    *,
    folder: Path,
    stage: Path,
    into: Path,
    seed: int,
) -> OwnData:
    """Read label maps, and write those that mmseg cannot read as they are.

    Args:
        listed: the classes that --classes lists, and ``source`` the file.
        folder: the user's.
        stage: where files are written.
        into: the name that it gets in the end.

    Raises:
        UserError: label maps are not right, or what they mean is not known.
    """
    notes = Notes(tree.root)
    for image in pairing.images:
        notes.add('images without label map', image, 'left out')
    for file in pairing.maps:
        notes.add('label maps without image', file, 'left out')
    if listed is None:
        source = find_class_list(tree)
        listed = read_class_list(source) if source else None
    splits, said = _splits(tree, pairing)
    labelled: dict[str, list[Labelled]] = {}
    values: dict[str, Values] = {}
    for split, pairs in splits.items():
        labelled[split] = _look_at(tree, pairs, values, notes)
        if not labelled[split]:
            why = '; '.join(notes.lines())
            raise UserError(
                f'label maps: no image is left in {split}' + (f' ({why})' if why else '')
            )
    meaning = interpret(values, listed, source)
    items = told_apart({split: _items(those, values, meaning) for split, those in labelled.items()})
    said += duplicates(items, tree.root)
    if 'val' not in labelled:
        every = labelled['train']
        validates = choose_validation(items['train'], seed)
        labelled['train'] = [one for one, val in zip(every, validates, strict=True) if not val]
        labelled['val'] = [one for one, val in zip(every, validates, strict=True) if val]
        said.append(validation_said(len(labelled['train']), len(labelled['val']), seed))
    ready, suffixes = _ready(tree, labelled, meaning, pairing.suffix, stage, into)
    sizes = [one.picture.size for one in labelled['train']]
    return OwnData(
        folder=folder,
        form='label maps',
        task='labels',
        classes=tuple(one.name for one in meaning.classes),
        palette=palette(meaning.classes),
        splits={split: ready[split] for split in SPLITS if split in ready},
        image_sizes=np.array(sizes, np.int64).reshape(-1, 2),
        objects=np.zeros((0, 3)),
        pixels=_pixels([values[one.labels] for one in labelled['train']], meaning),
        image_suffix=suffixes[0],
        label_suffix=suffixes[1],
        written=into if any(stage.iterdir()) else None,
        said=(*said, *meaning.said, *notes.lines()),
    )


def _splits(tree: Tree, pairing: Pairing) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """The pairs of each split: by lists, by the folders of images, or by those of label maps."""
    said: list[str] = []
    by_image = dict(pairing.pairs)
    by_map = {labels: image for image, labels in pairing.pairs}
    lists = 'ImageSets/Segmentation'
    if not any(posixpath.dirname(file).endswith(lists) for file in tree.ending('.txt')):
        lists = ''
    splits = given_splits(tree, [*by_image], said, lists=lists, half='label map')
    if len(splits) == 1:
        found = given_splits(tree, [*by_map], [], half='label map')
        splits = {split: [by_map[file] for file in files] for split, files in found.items()}
    if 'train' not in splits:
        raise UserError(f'{tree.root} has images for {" and ".join(splits)}, none for train')
    return {s: [(image, by_image[image]) for image in those] for s, those in splits.items()}, said


def _look_at(
    tree: Tree, pairs: Sequence[tuple[str, str]], values: dict[str, Values], notes: Notes
) -> list[Labelled]:
    """Those pairs that can be read and are of one size; ``values`` gets what their maps hold."""
    pictures = look_at_all([tree.full(image) for image, _ in pairs], notes)
    maps = [tree.full(labels) for _, labels in pairs]
    kept = []
    for picture, path, found in zip(
        pictures, maps, over_files(look_at_map, maps, 'label maps'), strict=True
    ):
        if found.size is None:
            notes.add('label maps that cannot be read', f'{path}: {found.problem}', 'left out')
        elif picture is not None and picture.size != found.size:
            sizes = f'{found.size[0]} x {found.size[1]}, not {picture.size[0]} x {picture.size[1]}'
            notes.add('label maps of another size than their image', f'{path}: {sizes}', 'left out')
        elif picture is not None:
            kept.append(Labelled(picture, path))
            values[path] = found
    return kept


def _items(
    labelled: Sequence[Labelled], values: Mapping[str, Values], meaning: Meaning
) -> list[Item]:
    table, number = meaning.table, len(meaning.classes)
    items = []
    for picture, labels in labelled:
        found = values[labels].values
        classes = {value if table is None else table[value] for value in found}
        items.append(Item(picture.path, picture.digest, {c for c in classes if c < number}))
    return items


def _pixels(found: Sequence[Values], meaning: Meaning) -> np.ndarray:
    """(C,) how many of the pixels show each class."""
    table, number = meaning.table, len(meaning.classes)
    pixels = np.zeros(256, np.int64)
    for one in found:
        labels = one.values if table is None else [table[value] for value in one.values]
        np.add.at(pixels, np.array(labels, int), one.counts)
    return pixels[:number]


# ------------------------------------------------------------------------------------- writing


def _ready(
    tree: Tree,
    labelled: Mapping[str, Sequence[Labelled]],
    meaning: Meaning,
    suffix: str,
    stage: Path,
    into: Path,
) -> tuple[dict[str, Split], tuple[str, str]]:
    """The splits as mmseg reads them, and the suffixes of images and label maps."""
    ends = {posixpath.splitext(one.picture.path)[1] for those in labelled.values() for one in those}
    image_suffix = (
        next(iter(ends)) if len(ends) == 1 else ''
    )  # names have theirs, where they differ
    label_suffix = f'{suffix}.png'
    named = {split: _named(those, image_suffix, label_suffix) for split, those in labelled.items()}
    in_place = (
        meaning.table is None
        and image_suffix
        and all(each.labels != Path() for each in named.values())
    )
    ready = {}
    for split, those in labelled.items():
        images, labels, names = named[split]
        if not in_place:
            labels = into / 'labels' / split
            _write(those, names, stage / 'labels' / split, meaning)
        listed = None
        if not (in_place and len(names) == _number_below(tree, images, image_suffix)):
            listed = into / f'{split}.txt'
            (stage / listed.name).write_text(
                ''.join(f'{name}\n' for name in names), encoding='utf-8'
            )
        ready[split] = Split(images, labels, len(names), listed)
    return ready, (image_suffix, label_suffix if in_place else '.png')


def _named(labelled: Sequence[Labelled], image_suffix: str, label_suffix: str) -> _Names:
    """Names that give both files; without a folder of labels where there are no such."""
    images = common_folder([one.picture.path for one in labelled])
    labels = common_folder([one.labels for one in labelled])
    prefix = len(images.as_posix().rstrip('/')) + 1
    names = tuple(one.picture.path[prefix:].removesuffix(image_suffix) for one in labelled)
    fit = all(
        one.labels == posixpath.join(labels.as_posix(), name + label_suffix)
        for one, name in zip(labelled, names, strict=True)
    )
    return _Names(images, labels if fit else Path(), names)


def _write(labelled: Sequence[Labelled], names: Sequence[str], to: Path, meaning: Meaning) -> None:
    """Label maps as indices, under the names of their images."""
    jobs = []
    for one, name in zip(labelled, names, strict=True):
        path = to / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((one.labels, str(path)))
    table = meaning.table or {value: value for value in range(256)}
    translated = partial(_translate, table=table, colours=colours_of(meaning.classes))
    over_files(translated, jobs, 'label maps')


def _translate(job: tuple[str, str], table: dict[int, int], colours: list[int]) -> None:
    translate(*job, table, colours)


def _number_below(tree: Tree, folder: Path, suffix: str) -> int:
    """Files that mmseg would find in a folder."""
    below = os.path.relpath(folder, tree.root)
    prefix = '' if below == '.' else f'{below}/'
    return sum(file.startswith(prefix) and file.endswith(suffix) for file in tree.files)
