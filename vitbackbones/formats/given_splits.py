"""Which images somebody has for training, validation and test."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from vitbackbones.errors import UserError

from .picture import counted
from .tree import Tree, purpose, stem

_BOTH = 'trainval'
_IMAGE_SETS = 'ImageSets/'


def given_splits(
    tree: Tree, files: Sequence[str], said: list[str], *, lists: str = '', half: str
) -> dict[str, list[str]]:
    """The files of each split: by lists of names if there are some, else by the folders' names.

    Files of one split alone are 'train', whatever its name.

    Args:
        files: one for each image, below the root.
        said: gets lines about names without a file and files without a name.
        lists: where lists are: what the name of their folder ends in.
        half: what ``files`` are, in words.

    Raises:
        UserError: a list cannot be read, one in ``lists`` names none of the files, or a split has
            an empty folder.
    """
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for folder, those in _lists(tree, lists).items():
        # Each year of VOC has lists of its own.
        year = posixpath.dirname(posixpath.dirname(folder)) if _IMAGE_SETS in f'{folder}/' else ''
        own = [file for file in files if not year or file.startswith(f'{year}/')]
        for split, lines in those.items():
            found, unknown = _resolve(tree, lines, own, split)
            path = posixpath.join(folder, split)
            if lists and not found and split != 'test':
                raise UserError(
                    f'{tree.full(path)}.txt: none of its {len(lines)} images has {half}'
                )
            if found and unknown:
                said.append(
                    counted(
                        f'names in {path}.txt without {half}', unknown, len(unknown), 'left out'
                    )
                )
            if found:
                splits[split] += found
    if 'train' in splits:
        taken = {file for those in splits.values() for file in those}
        rest = [file for file in files if file not in taken]
        if rest:
            said.append(counted(f'{half} in no list of images', rest, len(rest), 'left out'))
        return dict(splits)
    splits.clear()
    for file in files:
        splits[tree.purpose_of(posixpath.dirname(file)) or 'train'].append(file)
    for folder in tree.empty:
        named = tree.purpose_of(folder)
        if named and named not in splits:
            raise UserError(
                f'{tree.full(folder)} is empty: put the images of {named} there, or remove it'
            )
    if len(splits) < 2:
        return {'train': [*files]}
    each = ', '.join(f'{split} {len(those)}' for split, those in splits.items())
    said.append(f'splits by the names of folders: {each}')
    return dict(splits)


def _lists(tree: Tree, ending: str) -> dict[str, dict[str, list[str]]]:
    """The lines of files such as train.txt, by the folder that they are in and by split."""
    lists: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for file in tree.ending('.txt'):
        folder, name = posixpath.dirname(file), stem(file)
        split = name if name == _BOTH else purpose(name)
        if split and name.isalpha() and folder.endswith(ending):
            lists[folder].setdefault(split, _lines(Path(tree.full(file))))
    for those in lists.values():
        both = those.pop(_BOTH, None)
        if both is not None and 'train' not in those:
            those['train'] = both
    return lists


def _resolve(
    tree: Tree, lines: Sequence[str], files: Collection[str], split: str
) -> tuple[list[str], list[str]]:
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
                found[max(those, key=lambda file: _likeness(tree, file, name, split))] = None
                break
        else:
            unknown.append(line)
    return [*found], unknown


def _likeness(tree: Tree, file: str, name: str, split: str) -> tuple[int, bool]:
    return shared_end(file, name), tree.purpose_of(posixpath.dirname(file)) == split


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
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    return [line.strip() for line in lines if line.strip()]
