"""A config written for somebody, from one that they know and a backbone of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vitbackbones.errors import UserError

from .fitting import fit
from .from_data import Data, looked_at, reading
from .heads import DEFAULTS, check_task, config_of
from .machine import this_machine
from .ours import Network, network
from .starting import draft_of, files_of
from .swap import swap
from .writing import write_draft


@dataclass(frozen=True)
class NewConfig:
    """A config that has been written.

    Attributes:
        path: of the file.
        said: one line for each rule that acted: its name, a colon, what it did.
        table: what there is to learn in the data, and what is wrong with them, in lines.
    """

    path: Path
    said: tuple[str, ...]
    table: tuple[str, ...] = ()


def new_config(
    start: str | None,
    backbone: str,
    out: str | Path,
    *,
    data: Data | None = None,
    weights: str = 'auto',
    force: bool = False,
) -> NewConfig:
    """Write a config that is another one with a backbone of ours, for its data or for one's own.

    Args:
        start: a config of mmdet or mmseg, ``mmdet::path``, or a file that inherits one. None, with
            ``data``, for one of ours.
        backbone: a name that :func:`~vitbackbones.create` knows.
        out: the file to write. What has to be written of the data goes beside it, to a folder
            called after it.
        data: a folder to train on.
        weights: as :func:`~vitbackbones.authoring.weights.choose_weights` takes it.
        force: write over a file that is there.

    Raises:
        UserError: ``start`` cannot be read or has no backbone that could be replaced, there is no
            such backbone, the data are not right or not what ``start`` learns from, or ``out``
            cannot be written; nothing was written then.
        CheckpointError: ``weights`` cannot be read, or are of another network.
    """
    path = _writable(Path(out), start, force=force)
    named = network(backbone)  # a wrong name costs no time
    if data is not None:
        return _for_data(start, named, path, data, weights, force=force)
    if start is None:
        raise UserError('name a config with --from, a folder of your own with --data, or both')
    draft = draft_of(start)
    swap(draft, backbone, weights)
    write_draft(draft, path, f'{_origin(start)} with {named.words}, by `vitbackbones new`.')
    return NewConfig(path, tuple(draft.said))


def _for_data(
    start: str | None, named: Network, path: Path, data: Data, weights: str, *, force: bool
) -> NewConfig:
    machine = this_machine(data.device, data.memory)
    into = path.with_name(f'{path.stem}_data')
    with reading(data, start, into, force=force) as own:
        base = start or config_of(data.head or DEFAULTS[own.task], named.cls.__name__.lower())
        draft = draft_of(base)
        check_task(own, draft.config, f'--head {data.head}' if data.head else base)
        begins = swap(draft, named.name, weights)
        if start is None:  # a template of ours has no old backbone that anybody knows
            for rule in ('old', 'channels'):
                draft.unsay(rule)
        fit(
            draft,
            own,
            machine,
            ours=start is None,
            pretrained=not begins.is_random,
            name=base,
            max_scale=data.max_scale,
            batch_size=data.batch_size,
            epochs=data.epochs,
        )
        table = looked_at(draft.config)
        words = f'{_origin(base)} with {named.words} for {own.folder.absolute().name}'
        write_draft(draft, path, f'{words}, by `vitbackbones new`.')
    return NewConfig(path, (*own.said, *draft.said), table)


def _origin(start: str) -> str:
    return start if '::' in start else Path(start).name


def _writable(path: Path, start: str | None, *, force: bool) -> Path:
    """The path of a file that may be written.

    Raises:
        UserError: it is there, or its folder is not, or ``start`` is or inherits it.
    """
    path = Path(os.path.abspath(path))  # without '..', as mmengine names a file's folder
    if path.suffix != '.py':
        raise UserError(f'-o {path}: a config is a file of Python, name it {path.stem}.py')
    if path.is_dir() or (path.exists() and not force):
        raise UserError(f'-o {path} is there already; --force writes over it')
    if not path.parent.is_dir():
        raise UserError(f'-o {path}: there is no folder {path.parent}')
    if start is not None and path.resolve() in files_of(start):
        raise UserError(f'-o {path}: --from {start} needs that file, so it cannot be written over')
    return path
