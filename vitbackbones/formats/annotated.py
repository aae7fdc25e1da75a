"""Images with boxes or masks, as the readers of formats hand them on, made ready for mmdet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitbackbones.errors import UserError

from .class_list import Named, palette
from .looking import look_at_images
from .own_data import OwnData, Split, Task
from .picture import SHOWN, Notes, Picture, counted, tidy
from .splitting import SHARE, SPLITS, Item, choose_validation, in_two_splits, told_apart
from .tree import Tree
from .writing import write_coco


@dataclass(frozen=True)
class InPlace:
    """An annotation file of the user's that can be read as it is.

    Attributes:
        images: the folder that the names of its images are below.
    """

    images: Path
    annotations: Path


@dataclass
class Annotated:
    """What a reader found.

    Attributes:
        form: the format, in words.
        splits: images by 'train', 'val' and 'test', as far as there are such.
        notes: what was found in them.
        in_place: splits whose file needs no other.
        said: lines about all of it.
    """

    form: str
    task: Task
    classes: tuple[str, ...]
    splits: dict[str, list[Picture]]
    notes: Notes
    in_place: dict[str, InPlace] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def look_at_all(
    paths: Sequence[str], notes: Notes, sizes: Sequence[tuple[int, int]] | None = None
) -> list[Picture | None]:
    """The images of files, None for those that cannot be trained on.

    Args:
        sizes: width and height as the annotations have them: where the file has others, its boxes
            cannot be right.
    """
    pictures: list[Picture | None] = []
    for place, (path, seen) in enumerate(zip(paths, look_at_images(paths), strict=True)):
        if seen.size is None:
            notes.add('images that cannot be read', f'{path}: {seen.problem}', 'left out')
            pictures.append(None)
        elif sizes is not None and sizes[place] != seen.size:
            width, height = sizes[place]
            example = f'{path}: {seen.size[0]} x {seen.size[1]}, not {width} x {height}'
            notes.add('images of another size than their annotations say', example, 'left out')
            pictures.append(None)
        else:
            pictures.append(Picture(path, seen.size, digest=seen.digest))
    return pictures


def make_ready(
    tree: Tree, found: Annotated, folder: Path, stage: Path, into: Path, seed: int
) -> OwnData:
    """Split, write what mmdet cannot read as it is, and measure.

    Args:
        folder: the user's.
        stage: where files are written.
        into: the name that it gets in the end.

    Raises:
        UserError: a split has no object, or cannot be made.
    """
    if 'train' not in found.splits:
        raise UserError(f'{folder} has images for {" and ".join(found.splits)}, none for train')
    made = 'val' not in found.splits
    in_place = {
        split: own
        for split, own in found.in_place.items()
        if not (made and split == 'train')  # it is parted
    }
    untouched = Notes(tree.root)  # what is wrong in files that are read as they are, training says
    for split, pictures in found.splits.items():
        tidy(pictures, untouched if split in in_place else found.notes)
    items = told_apart({split: _items(pictures) for split, pictures in found.splits.items()})
    said = [*found.said, *duplicates(items, tree.root)]
    if made:
        said.append(_make_validation(found, items['train'], seed))
    _drop_empty(found, said)
    ready: dict[str, Split] = {}
    for split, pictures in found.splits.items():
        if split in in_place:
            own = in_place[split]
            ready[split] = Split(own.images, own.annotations, len(pictures))
            continue
        images = common_folder([picture.path for picture in pictures])
        name = f'{split}.json'
        write_coco(stage / name, images, found.classes, pictures)
        ready[split] = Split(images, into / name, len(pictures))
    sizes, objects = _measure(found.splits['train'])
    return OwnData(
        folder=folder,
        form=found.form,
        task=found.task,
        classes=found.classes,
        palette=palette([Named(name) for name in found.classes]),
        splits={split: ready[split] for split in SPLITS if split in ready},
        image_sizes=sizes,
        objects=objects,
        written=into if any(stage.iterdir()) else None,
        said=(*said, *found.notes.lines()),
    )


def duplicates(splits: Mapping[str, Sequence[Item]], root: Path) -> list[str]:
    """A line for each two splits that have images in common."""
    return [
        counted(
            f'images of {second} that {first} has, too',
            [os.path.relpath(path, root) for path in paths[:SHOWN]],
            len(paths),
            f'which makes figures of {second} too good',
        )
        for (first, second), paths in in_two_splits(splits).items()
    ]


def validation_said(train: int, val: int, seed: int) -> str:
    """That a split was made."""
    return (
        f'no validation split: {val} of {train + val} images were taken for one '
        f'({SHARE:.0%}, by their content, --seed {seed})'
    )


def common_folder(paths: Sequence[str]) -> Path:
    """The folder that all of these files are below."""
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))


def _items(pictures: Sequence[Picture]) -> list[Item]:
    return [
        Item(picture.path, picture.digest, {thing.label for thing in picture.things})
        for picture in pictures
    ]


def _make_validation(found: Annotated, items: Sequence[Item], seed: int) -> str:
    every = found.splits['train']
    validates = choose_validation(items, seed)
    found.splits['train'] = [p for p, val in zip(every, validates, strict=True) if not val]
    found.splits['val'] = [p for p, val in zip(every, validates, strict=True) if val]
    return validation_said(len(found.splits['train']), len(found.splits['val']), seed)


def _drop_empty(found: Annotated, said: list[str]) -> None:
    """See that each split has an object; a test split may lack annotations, and is left out."""
    for split, pictures in [*found.splits.items()]:
        if any(picture.things for picture in pictures):
            continue
        if split == 'test':
            said.append(f'none of the {len(pictures)} images of test is annotated: it is left out')
            del found.splits[split]
            continue
        why = '; '.join(found.notes.lines())
        raise UserError(
            f'{found.form}: no object is left in the {len(pictures)} images of {split}'
            + (f' ({why})' if why else '')
        )


def _measure(pictures: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) sizes of images and (M, 3) width, height and image of their objects."""
    sizes = np.array([picture.size for picture in pictures], np.int64).reshape(-1, 2)
    objects = np.array(
        [
            (*thing.box[2:], place)
            for place, picture in enumerate(pictures)
            for thing in picture.things
            if not thing.crowd
        ],
        np.float64,
    )
    return sizes, objects.reshape(-1, 3)
