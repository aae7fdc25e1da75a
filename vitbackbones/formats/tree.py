"""The files of a user's folder, listed once."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitbackbones.errors import UserError

IMAGE_SUFFIXES = frozenset(
    ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.jp2')
)
_JUNK = frozenset(('__MACOSX', 'Thumbs.db', 'desktop.ini', 'work_dirs'))

#: A file in every folder that ``vitbackbones new`` has written.
MARK = 'WRITTEN_BY_VITBACKBONES.txt'

_PURPOSES = {
    'train': ('train', 'training', 'trainval'),
    'val': ('val', 'valid', 'validation', 'minival', 'dev'),
    'test': ('test', 'testing'),
}
_PURPOSE_OF = {word: split for split, words in _PURPOSES.items() for word in words}
_CONTENT = re.compile(
    '(annot|ann|annotations?|labels?|masks?|images?|imgs?|sets?|data|datasets?)$'
)  # trainannot


@dataclass(frozen=True)
class Tree:
    """A folder, and what is below it.

    Attributes:
        root: the folder, absolute.
        files: their paths below it, with slashes, sorted.
        empty: folders that hold nothing, as ``files``.
    """

    root: Path
    files: tuple[str, ...]
    empty: tuple[str, ...] = ()

    @cached_property
    def all(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def images(self) -> tuple[str, ...]:
        return self.ending(*IMAGE_SUFFIXES)

    def ending(self, *suffixes: str) -> tuple[str, ...]:
        """Files with one of these suffixes, in small letters, whatever theirs are in."""
        return tuple(f for f in self.files if posixpath.splitext(f)[1].lower() in suffixes)

    def full(self, file: str) -> str:
        """Its absolute path."""
        return posixpath.join(self.root.as_posix(), file)

    def purpose_of(self, folder: str) -> str | None:
        """The split that a folder, or one that it is in, names: see :func:`purpose`.

        Where folders beside each other differ in nothing but that word, as `train_x` and `val_x`,
        it counts whatever stands with it.
        """
        while folder:
            split = self._beside.get(folder) or purpose(posixpath.basename(folder))
            if split:
                return split
            folder = posixpath.dirname(folder)
        return None

    @cached_property
    def _beside(self) -> dict[str, str]:
        alike: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for folder in {*self.empty, *map(posixpath.dirname, self.files)}:
            while folder:
                parent, name = posixpath.split(folder)
                words = re.split('[^a-z0-9]+', name.lower())
                for i, word in enumerate(words):
                    if split := _PURPOSE_OF.get(word):
                        alike[parent, '/'.join([*words[:i], '', *words[i + 1 :]])][folder] = split
                folder = parent
        return {
            folder: split
            for those in alike.values()
            if 'train' in those.values() and len({*those.values()}) > 1
            for folder, split in those.items()
        }

    def content(self) -> str:
        """What there is, in words: how many files of each suffix, with an example."""
        examples: dict[str, str] = {}
        for file in self.files:
            examples.setdefault(posixpath.splitext(file)[1].lower(), file)
        numbers = Counter(posixpath.splitext(file)[1].lower() for file in self.files)
        few = [f'{n} {s or "without suffix"} ({examples[s]})' for s, n in numbers.most_common(5)]
        return ', '.join(few) + (' ...' if len(numbers) > 5 else '')


def list_tree(folder: Path) -> Tree:
    """List a folder; one that holds a single folder and nothing else is as if it were that one.

    What ``vitbackbones new`` has written, and what trainings have, is none of the user's.

    Raises:
        UserError: it is not there, no folder, empty, or cannot be read.
    """
    if not folder.is_dir():
        what = 'a file, not a folder' if folder.exists() else 'not there'
        raise UserError(f'{folder} is {what}: name the folder of images and annotations')
    root = Path(os.path.abspath(folder))
    while True:
        try:
            inside = [name for name in os.listdir(root) if _is_of_interest(name)]
        except OSError as error:
            raise UserError(f'{root} cannot be read: {error.strerror or error}') from error
        if len(inside) != 1 or not (root / inside[0]).is_dir():
            break
        root /= inside[0]
    files: list[str] = []
    empty: list[str] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        ours = MARK in names and Path(place) != root
        if real in seen or ours:  # or links in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(_is_of_interest, folders))
        below = Path(place).relative_to(root).as_posix()
        prefix = '' if below == '.' else f'{below}/'
        here = [prefix + name for name in names if _is_of_interest(name)]
        files += here
        if not (here or folders):
            empty.append(below)
    if not files:
        raise UserError(f'{folder} is empty')
    return Tree(root, tuple(sorted(files)), tuple(sorted(empty)))


def is_ours(folder: Path) -> bool:
    """Whether ``vitbackbones new`` has written a folder, so that it may write it again."""
    return (folder / MARK).is_file()


def purpose(path: str) -> str | None:
    """The split that folders name: 'train', 'val', 'test'; None if none, the last one counts.

    A word for it is followed by words for content at most: `train_images` names one, and
    `train_station` shows stations.
    """
    for part in reversed(path.split('/')):
        words = [word for word in re.split('[^a-z]+', part.lower()) if len(word) > 1]
        for i, word in enumerate(words):
            split = _split_of(word)
            if split and all(_split_of(w) or not _CONTENT.sub('', w) for w in words[i + 1 :]):
                return split
    return None


def purpose_of_file(path: str) -> str | None:
    """The split that the name of a file names anywhere, or else its folders."""
    for word in re.split('[^a-z]+', stem(path).lower()):
        if split := _split_of(word):
            return split
    return purpose(posixpath.dirname(path))


def _split_of(word: str) -> str | None:
    return _PURPOSE_OF.get(word) or _PURPOSE_OF.get(_CONTENT.sub('', word))


def stem(file: str) -> str:
    """The last part of a path without its suffix."""
    return posixpath.splitext(posixpath.basename(file))[0]


def _is_of_interest(name: str) -> bool:
    return not name.startswith('.') and name not in _JUNK
