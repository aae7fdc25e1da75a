"""A config written for somebody, from one that they know and a backbone of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitbackbones.errors import UserError

from .ours import network
from .starting import draft_of
from .swap import swap
from .writing import write_draft


@dataclass(frozen=True)
class NewConfig:
    """A config that has been written.

    Attributes:
        path: of the file.
        said: one line for each rule that acted: its name, a colon, what it did.
    """

    path: Path
    said: tuple[str, ...]


def new_config(
    start: str, backbone: str, out: str | Path, *, weights: str = 'auto', force: bool = False
) -> NewConfig:
    """Write a config that is another one with a backbone of ours.

    Args:
        start: a config of mmdet or mmseg, ``mmdet::path``, or a file that inherits one.
        backbone: a name that :func:`~vitbackbones.create` knows.
        out: the file to write.
        weights: 'auto' for published ones if they can be had, 'none', a file or an address.
        force: write over a file that is there.

    Raises:
        UserError: ``start`` cannot be read or has no backbone that could be replaced, there is no
            such backbone, or ``out`` cannot be written; nothing was written then.
        CheckpointError: ``weights`` cannot be read, or are of another network.
    """
    path = _writable(Path(out), force=force)
    named = network(backbone)  # a wrong name costs no time
    draft = draft_of(start)
    swap(draft, backbone, weights)
    origin = start if '::' in start else Path(start).name
    write_draft(draft, path, f'{origin} with {named.words}, by `vitbackbones new`.')
    return NewConfig(path, tuple(draft.said))


def _writable(path: Path, *, force: bool) -> Path:
    """The path of a file that may be written.

    Raises:
        UserError: it is there, or its folder is not.
    """
    path = path.absolute()
    if path.suffix != '.py':
        raise UserError(f'-o {path}: a config is a file of Python, name it {path.stem}.py')
    if path.is_dir() or (path.exists() and not force):
        raise UserError(f'-o {path} is there already; --force writes over it')
    if not path.parent.is_dir():
        raise UserError(f'-o {path}: there is no folder {path.parent}')
    return path
