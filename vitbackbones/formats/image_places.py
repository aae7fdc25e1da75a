"""Where the images are that an annotation file names."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from vitbackbones.errors import UserError

from .tree import Tree

_FEW = 50  # names by which a folder is found


def image_folder(tree: Tree, file: str, names: Sequence[str], split: str) -> str | None:
    """The folder that the names of a file's images are below; None if there is no such folder.

    Args:
        file: below the root, as the folder is.

    Raises:
        UserError: it is not clear which.
    """
    folders = {'', posixpath.dirname(file)}
    for image in tree.images:
        folder = posixpath.dirname(image)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    few = names[:: max(1, len(names) // _FEW)]
    numbers = {folder: sum(_joined(folder, name) in tree.all for name in few) for folder in folders}
    most = max(numbers.values())
    best = [folder for folder in sorted(folders) if numbers[folder] == most]
    if not most:
        return None
    if len(best) == 1:
        return best[0]
    for named in (
        [folder for folder in best if tree.purpose_of(folder) == split],
        [folder for folder in best if folder == posixpath.dirname(file)],
    ):
        if len(named) == 1:
            return named[0]
    raise UserError(
        f'{tree.full(file)}: the images that it names are in {best[0] or "."} and in {best[1]} of '
        f'{tree.root} alike'
    )


def image_places(
    tree: Tree, file: str, names: Sequence[str], folder: str | None
) -> list[str | None]:
    """Where each image is; None for one that is nowhere.

    Args:
        folder: that the names are below; None to look for the last parts of the names, where they
            have folders of the machine that they come from.

    Raises:
        UserError: not one is there.
    """
    if folder is not None:
        there = [_joined(folder, name) for name in names]
        return [tree.full(name) if name in tree.all else None for name in there]
    by_name: dict[str, list[str]] = {}
    for image in tree.images:
        by_name.setdefault(posixpath.basename(image), []).append(image)
    found = [by_name.get(name.replace('\\', '/').rpartition('/')[2], []) for name in names]
    if not any(len(those) == 1 for those in found):
        raise UserError(
            f'{tree.full(file)} names images such as {names[0]}, and none of them is in {tree.root}'
        )
    return [tree.full(those[0]) if len(those) == 1 else None for those in found]


def _joined(folder: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(folder, name))
