"""Text files that say which images are for training, validation and test."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitbackbones.errors import UserError

from .tree import Tree, purpose, stem

_NAMES = ('train', 'val', 'test', 'trainval')


def split_lists(tree: Tree, folders: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """The lines of such files, by the folder that they are in and by split.

    'trainval' is 'train' where nothing parts it, and left out where something does.

    Args:
        folders: what the names of their folders end in; '' for any.

    Raises:
        UserError: one cannot be read.
    """
    lists: dict[str, dict[str, list[str]]] = {}
    for file in tree.ending('.txt'):
        folder, name = posixpath.dirname(file), stem(file)
        if name in _NAMES and any(folder.endswith(end) for end in folders):
            lists.setdefault(folder, {})[name] = _lines(Path(tree.full(file)))
    for those in lists.values():
        both = those.pop('trainval', None)
        if both is not None and 'train' not in those:
            those['train'] = both
    return lists


def resolve(lines: Sequence[str], files: Iterable[str], split: str) -> tuple[list[str], list[str]]:
    """The files that the lines name, once each, and the lines that name none.

    Of files of one name it is the one whose folders are called as in the line, else the one whose
    folders are called as the split.
    """
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        by_stem[stem(file)].append(file)
    found: dict[str, None] = {}
    unknown = []
    for line in lines:
        # A name may hold spaces, be followed by a number or a second path, and begin with folders.
        for name in (line, re.sub(r'\s+-?[01]$', '', line), line.split()[0]):
            those = by_stem.get(posixpath.basename(name)) or by_stem.get(stem(name))
            if those:
                found[max(those, key=lambda file: _likeness(file, name, split))] = None
                break
        else:
            unknown.append(line)
    return [*found], unknown


def _likeness(file: str, name: str, split: str) -> tuple[int, bool]:
    return shared_end(file, name), purpose(posixpath.dirname(file)) == split


def shared_end(one: str, other: str) -> int:
    """How many folders two paths have in common, from the files on."""
    shared = 0
    folders = (reversed(path.split('/')[:-1]) for path in (one, other))
    for first, second in zip(*folders, strict=False):
        if first != second:
            break
        shared += 1
    return shared


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    return [line.strip() for line in lines if line.strip()]
