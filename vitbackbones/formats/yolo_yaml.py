"""data.yaml, which describes a folder in YOLO's format: its classes and where its images are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vitbackbones.data.values import listed
from vitbackbones.errors import UserError

from .tree import IMAGE_SUFFIXES, Tree

_KEYS = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}


@dataclass(frozen=True)
class Description:
    """A data.yaml.

    Attributes:
        names: of the classes; empty if it has none.
        number: of the classes, 0 if it does not say.
        keypoints: whether lines have keypoints behind their boxes.
        entries: for each split the folders of images, or text files that list images.
        base: what the entries are relative to.
    """

    path: Path
    names: tuple[str, ...]
    number: int
    keypoints: bool
    entries: Mapping[str, tuple[str, ...]]
    base: str

    def splits(self, tree: Tree, said: list[str]) -> dict[str, list[str]]:
        """The absolute paths of each split's images.

        Raises:
            UserError: an entry is not there, or has no image.
        """
        splits: dict[str, list[str]] = {}
        for split, entries in self.entries.items():
            images: dict[str, None] = {}
            missing = ''
            for entry in entries:
                place = self._place(entry)
                if place is None:
                    missing = entry
                else:
                    images.update(dict.fromkeys(self._images(place)))
            if missing and split == 'test' and not images:
                said.append(f'{self.path.name} names {missing} for test, which is not there')
                continue
            if missing or not images:
                what = 'is not there' if missing else 'has no images'
                raise UserError(f'{self.path}: {split}: {missing or entries[0]} {what}')
            splits[split] = [*images]
        if 'train' not in splits:
            raise UserError(f'{self.path} has no entry train: the folder of images to learn from')
        for split in ('val', 'test'):
            if {*splits.get(split, ())} == {*splits['train']}:
                said.append(f'{split} of {self.path.name} is train once more: not used')
                del splits[split]
        return splits

    def _place(self, entry: str) -> Path | None:
        """Where it is: where the file says, or where the machine that it comes from had it."""
        here = self.path.parent
        if '\\' in entry and not (here / self.base / entry).exists():  # as Windows writes it
            entry = re.sub('^[A-Za-z]:', '', entry.replace('\\', '/'))
        for base in (here / self.base, here):
            place = base / entry  # an absolute entry stays one
            if place.exists():
                return _plain(place)
        parts = [part for part in Path(entry).parts if part not in ('..', '.', os.sep)]
        for first in range(len(parts)):
            place = here.joinpath(*parts[first:])
            if place.exists():
                return _plain(place)
        return None

    def _images(self, place: Path) -> Iterable[str]:
        if place.is_dir():
            for folder, folders, names in os.walk(place, followlinks=True):
                folders.sort()
                for name in sorted(names):
                    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and name[0] != '.':
                        yield os.path.join(folder, name)
            return
        try:
            lines = place.read_text(encoding='utf-8-sig').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'{place} cannot be read: {error}') from error
        for line in filter(None, map(str.strip, lines)):
            image = _plain(place.parent / line) if line.startswith('./') else self._place(line)
            if image is None or not image.exists():
                raise UserError(f'{place} lists {line}, which is not there')
            yield str(image)


def find_description(tree: Tree) -> Description | None:
    """The data.yaml of a folder, whatever its name.

    Raises:
        UserError: there are several, or it is not right.
    """
    found = []
    for file in tree.ending('.yaml', '.yml'):
        path = Path(tree.full(file))
        try:
            content = yaml.safe_load(path.read_bytes())
        except (OSError, yaml.YAMLError) as error:
            if path.stem in ('data', 'dataset'):
                reason = ' '.join(str(error).split())
                raise UserError(f'{path} cannot be read: {reason}') from error
            continue
        if not isinstance(content, dict) or not any(key in content for key in ('names', 'nc')):
            continue
        if any(key in content for keys in _KEYS.values() for key in keys):
            found.append((path, content))
    if len(found) > 1:
        raise UserError(f'{found[0][0]} and {found[1][0]} describe the data: leave one of them')
    return _description(*found[0]) if found else None


def _description(path: Path, content: Mapping[str, Any]) -> Description:
    number = content.get('nc')
    # As they are written: to YAML `yes` and `no` are truth values.
    names = (content.get('names') and yaml.load(path.read_bytes(), yaml.BaseLoader)['names']) or ()
    if isinstance(names, dict):
        by_label = {str(label): name for label, name in names.items()}
        if {*by_label} != {str(label) for label in range(len(names))}:
            got = ', '.join(by_label)
            raise UserError(f'{path}: names must have the keys 0 to {len(names) - 1}, got {got}')
        names = [by_label[str(label)] for label in range(len(names))]
    if isinstance(names, str) or not isinstance(names, (list, tuple)):
        raise UserError(f'{path}: names must be a list of the classes, got {names!r:.60}')
    classes = tuple(map(str, names))
    if len({*classes}) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f'{path}: two classes have the name {twice}')
    if number is not None and not isinstance(number, int):
        raise UserError(f'{path}: nc={number!r:.40} must be the number of classes')
    if number is not None and classes and number != len(classes):
        raise UserError(f'{path}: nc={number}, but names has {len(classes)}: {listed(classes)}')
    entries: dict[str, tuple[str, ...]] = {}
    for split, keys in _KEYS.items():
        value = next((content[key] for key in keys if content.get(key)), None)
        if value is not None:
            every = value if isinstance(value, list) else [value]
            entries[split] = tuple(map(str, every))
    base = str(content.get('path') or '.')
    return Description(path, classes, number or 0, 'kpt_shape' in content, entries, base)


def _plain(path: Path) -> Path:
    """Without '..', links as they are."""
    return Path(os.path.normpath(path))
