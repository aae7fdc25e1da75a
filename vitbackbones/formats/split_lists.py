"""Text files that say which images are for training, validation and test."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitbackbones.errors import UserError

from .tree import Tree, stem

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


def resolve(lines: Sequence[str], known: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What the lines name, once each, and the lines that name nothing.

    Args:
        known: by a file's name without suffix.
    """
    found: dict[str, None] = {}
    unknown = []
    for line in lines:
        # A name may hold spaces, be followed by a number or a second path, and begin with folders.
        for name in (line, re.sub(r'\s+-?[01]$', '', line), line.split()[0]):
            item = known.get(posixpath.basename(name)) or known.get(stem(name))
            if item is not None:
                found[item] = None
                break
        else:
            unknown.append(line)
    return [*found], unknown


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    return [line.strip() for line in lines if line.strip()]
