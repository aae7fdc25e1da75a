"""What is written beside a config: annotations in COCO's format, and a folder as a whole."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitbackbones.errors import UserError

from .picture import Picture, Thing, area
from .tree import MARK, is_ours

_MARKED = (
    'What `vitbackbones new` has written for the config beside this folder, which reads it.\n'
    'It can be written again with --force, while nothing else is in this folder than:\n'
)


@contextmanager
def staged(into: Path, *, force: bool) -> Iterator[Path]:
    """A folder that becomes ``into`` when the block ends without an exception, unless it is empty.

    After an exception ``into`` is as it was.

    Args:
        force: replace what is there, if it was written like this.

    Raises:
        UserError: ``into`` is there, or is the user's, or something cannot be written or read.
    """
    if into.exists() and not force:
        raise UserError(f'{into} is there already: choose another name, or replace it with --force')
    if into.exists():
        require_ours(into)
    part = into.absolute().with_name(f'.{into.name}.{uuid.uuid4().hex[:8]}')
    try:
        part.mkdir(parents=True)
        yield part
        if into.exists():
            shutil.rmtree(into)
        if any(part.iterdir()):
            written = ''.join(f'{file}\n' for file in sorted(_files(part)))
            (part / MARK).write_text(_MARKED + written, encoding='utf-8')
            part.rename(into)
    except OSError as error:
        raise UserError(f'{error.filename or into}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def require_ours(folder: Path) -> None:
    """That a folder may be replaced, for all that is in it was written here.

    Raises:
        UserError: it was not, or there is a file in it that was not.
    """
    if folder.is_symlink() or not is_ours(folder):
        raise UserError(f'{folder} is there and was not written by `vitbackbones new`: remove it')
    listed = (folder / MARK).read_text(encoding='utf-8').splitlines()
    others = sorted({*_files(folder)} - {MARK, *listed})
    if others:
        raise UserError(
            f'{folder} would be replaced, but {others[0]} in it was not written by '
            '`vitbackbones new`: move it elsewhere'
        )


def _files(folder: Path) -> Iterator[str]:
    """All files and links below, as paths with slashes."""
    for path in folder.rglob('*'):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def write_coco(
    path: Path, images: Path, classes: Sequence[str], pictures: Sequence[Picture]
) -> None:
    """Write an annotation file, one row a line.

    Args:
        images: the folder that the names of files are below.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8') as file:
        file.write('{"images":[')
        prefix = len(images.as_posix().rstrip('/')) + 1
        for number, picture in enumerate(pictures, start=1):
            width, height = picture.size
            row = dict(id=number, file_name=picture.path[prefix:], width=width, height=height)
            file.write(_line(row, number == 1))
        file.write('],\n"annotations":[')
        count = 0
        for number, picture in enumerate(pictures, start=1):
            for thing in picture.things:
                count += 1
                file.write(_line(dict(id=count, image_id=number, **_fields(thing)), count == 1))
        file.write('],\n"categories":[')
        for number, name in enumerate(classes, start=1):
            file.write(_line(dict(id=number, name=name), number == 1))
        file.write(']}\n')


def _fields(thing: Thing) -> dict[str, Any]:
    fields: dict[str, Any] = dict(
        category_id=thing.label + 1,
        bbox=[_rounded(value) for value in thing.box],
        area=_rounded(area(thing)),
        iscrowd=int(thing.crowd),
    )
    if isinstance(thing.mask, Sequence):
        fields['segmentation'] = [[_rounded(value) for value in part] for part in thing.mask]
    elif thing.mask is not None:
        fields['segmentation'] = thing.mask
    return fields


def _rounded(value: float) -> float:
    """To a ten thousandth of a pixel, finer than any format has it."""
    return round(value, 4)


def _line(row: dict[str, Any], first: bool) -> str:
    return ('\n' if first else ',\n') + json.dumps(row, separators=(',', ':'))
