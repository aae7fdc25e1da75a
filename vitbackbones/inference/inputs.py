"""What `infer` is given (images, folders, patterns, videos), and how its results are called."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

import cv2
from PIL import Image

from vitbackbones.errors import UserError
from vitbackbones.formats.tree import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv')
)
DIGITS = 6  # of the number of a frame


class Input(NamedTuple):
    """An image or a video.

    Attributes:
        path: of the file.
        name: what its results are named after, below the folder that they go to; with suffix.
        asked: it was named itself; what a folder or a pattern holds was not.
    """

    path: Path
    name: PurePosixPath
    asked: bool

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


def is_video(path: PurePath) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


class _Found(NamedTuple):
    path: Path
    root: Path
    asked: bool


def find_inputs(
    words: Sequence[str | Path],
    out: Path,
    rename: Callable[[PurePosixPath], PurePosixPath] = lambda name: name,
) -> list[Input]:
    """The images and videos of a command, each once, in the order of the words.

    Names are those below the folder that was named, below the fixed part of a pattern, or in the
    folder of a file; where two would have the same, those below the folder that all have in common.

    Args:
        words: images, videos, folders, whose folders are looked into, and patterns.
        out: where results go; what lies in there is left out of folders and patterns.
        rename: what a format makes of a name.

    Raises:
        UserError: a word stands for nothing, or two files would write to the same results.
    """
    found: dict[str, _Found] = {}
    for word in words:
        for each in _of_word(word, out):
            found.setdefault(os.path.abspath(each.path), each)
    names = [PurePosixPath(each.path.relative_to(each.root).as_posix()) for each in found.values()]
    if len({_result(name) for name in names}) < len(names):
        common = os.path.commonpath([os.path.dirname(path) for path in found])
        names = [PurePosixPath(Path(path).relative_to(common).as_posix()) for path in found]
    inputs = [
        Input(each.path, rename(name), each.asked)
        for each, name in zip(found.values(), names, strict=True)
    ]
    _check_names(inputs)
    return inputs


def frame_name(video: PurePosixPath, number: int) -> PurePosixPath:
    """What the results of a frame are named after; it is written as such an image."""
    return video.with_name(f'{video.stem}_{number:0{DIGITS}}.jpg')


def check_readable(inputs: Sequence[Input]) -> None:
    """UserError for an image that was named and cannot be read."""
    for each in inputs:
        if each.asked and not each.is_video and not _seems_readable(each.path):
            raise UserError(f'{each.path} cannot be read as an image')


def _seems_readable(path: Path) -> bool:
    """By its first bytes, for there may be thousands; what Pillow does not know is read."""
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, Image.DecompressionBombError):
        return is_readable(path)


def is_readable(path: Path) -> bool:
    """Whether OpenCV reads an image."""
    try:
        return cv2.imread(str(path), cv2.IMREAD_COLOR) is not None
    except cv2.error:  # as of more than 2^30 pixels
        return False


def _of_word(word: str | Path, out: Path) -> list[_Found]:
    path = Path(word)
    if path.is_file():
        return [_Found(path, path.parent, asked=True)]
    if path.is_dir():
        _check_apart(path, out)
        found = [*_below(path, path, out)]
        if not found:
            raise UserError(f'{path} holds no image and no video')
        return found
    if not glob.has_magic(str(word)):
        raise UserError(f'there is no image {path}')
    found = [*_matching(str(word), out)]
    if not found:
        raise UserError(f'no image and no video is called {word}')
    return found


def _below(folder: Path, root: Path, out: Path) -> Iterator[_Found]:
    """Images and videos of a folder and the folders in it, ``out`` aside."""
    seen = {os.path.realpath(out)}
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # or links in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in sorted(folders) if not name.startswith('.')]
        for name in sorted(filter(_is_of_interest, names)):
            yield _Found(Path(place, name), root, asked=False)


def _matching(pattern: str, out: Path) -> Iterator[_Found]:
    """Images and videos that a pattern fits, and those in folders that it fits, ``out`` aside."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    _check_apart(root, out)
    results = Path(os.path.realpath(out))
    inside = results.is_relative_to(os.path.realpath(root))
    found: list[_Found] = []
    for path in map(Path, glob.glob(pattern, recursive=True)):
        if path.is_dir():
            found += _below(path, root, out)
        elif _is_of_interest(path.name):
            found.append(_Found(path, root, asked=False))
    # By the shortest name: links in a circle give each file many.
    places: dict[Path, _Found] = {}
    for each in sorted(found, key=lambda each: (len(each.path.parts), each.path)):
        place = Path(os.path.realpath(each.path.parent), each.path.name)
        if not (inside and place.is_relative_to(results)):
            places.setdefault(place, each)
    yield from sorted(places.values())


def _check_apart(folder: Path, out: Path) -> None:
    if os.path.realpath(folder) == os.path.realpath(out):
        raise UserError(f'--out-dir {out} holds the images themselves: name another folder')


def _is_of_interest(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith('.') and (suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES)


def _result(name: PurePosixPath) -> tuple[PurePosixPath, bool]:
    """What tells the results of an input from those of others: a video has numbered ones."""
    return name.with_suffix(''), is_video(name)


def _check_names(inputs: Sequence[Input]) -> None:
    """UserError if results of one would be written over those of another."""
    owners: dict[tuple[PurePosixPath, bool], Input] = {}
    for each in inputs:
        other = owners.setdefault(_result(each.name), each)
        if other is not each:
            _refuse(other, each)
    for each in inputs:
        match = re.fullmatch(rf'(.+)_\d{{{DIGITS},}}', each.name.stem)
        video = owners.get((each.name.with_name(match[1]), True)) if match else None
        if video is not None:
            _refuse(video, each)


def _refuse(one: Input, other: Input) -> None:
    raise UserError(
        f'{one.path} and {other.path} would write to the same result: '
        "name one of them alone, or by a pattern in quotes, as in '*.jpg'"
    )
