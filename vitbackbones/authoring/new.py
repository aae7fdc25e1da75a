"""A config written for somebody, from one that they know and a backbone of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vitbackbones.data.configs import as_list
from vitbackbones.errors import UserError
from vitbackbones.launch.loading import config_path

from .draft import Draft, dicts_in, inherited
from .ours import network
from .swap import swap
from .writing import write_draft

HOOKS = 'vitbackbones::_base_/hooks.py'

#: What mmengine takes for a config of a package; of others, as those in `gn+ws`, it takes the path.
NAME = re.compile(r'\w+::\w+/\w')


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


def draft_of(start: str) -> Draft:
    """A draft that inherits a config and what all of ours run: hooks, the pre-flight check first.

    Raises:
        UserError: there is no such config, it fails, or it is of the kind that nothing inherits.
    """
    file = config_path(start)
    if 'read_base()' in file.read_text(encoding='utf-8'):
        raise UserError(
            f'config {start} is in the style that imports its bases (`with read_base()`), which a '
            'file with `_base_` cannot inherit; mmdet and mmseg have nearly all of them in the '
            'other style too, in their configs/ folder: --from mmdet::... or mmseg::...'
        )
    draft = Draft([start if NAME.match(start) or '::' not in start else str(file)])
    missing = _import_modules(draft)
    if not {'custom_hooks', 'custom_imports'} & {*draft.config}:
        draft.inherit(HOOKS)
        return draft
    ours = inherited([HOOKS])
    hooks = list(draft.get('custom_hooks') or [])
    types = {hook.get('type') for hook in hooks}
    added = [dict(hook) for hook in ours.custom_hooks if hook.type not in types]
    if added:
        draft.set('custom_hooks', [*hooks, *added], 'Those it had, and ours.')
    own = draft.get('custom_imports')
    if own is None:
        draft.set('custom_imports', ours.custom_imports)
    else:
        names = [name for name in as_list(own['imports']) if name not in missing]
        if names != ['vitbackbones', *names[1:]]:
            draft.set('custom_imports.imports', ['vitbackbones', *names])
    return draft


def _import_modules(draft: Draft) -> list[str]:
    """Import what a config asks for; what is not there and what only its backbone needs.

    Raises:
        UserError: something that other parts need, too, is not there.
    """
    own = draft.get('custom_imports') or {}
    missing = []
    for name in as_list(own.get('imports')):
        try:
            import_module(name)
        except ImportError as error:
            if own.get('allow_failed_imports'):
                continue
            scope = f'{name.partition(".")[0]}.'
            users = [
                place
                for key in draft.config
                for place, part in dicts_in(draft.config[key], key)
                if str(part.get('type')).startswith(scope)
            ]
            if not users or any(not _is_in_backbone(place) for place in users):
                reason = ' '.join(str(error).split())
                raise UserError(
                    f'config {draft.bases[0]} imports {name}, which is not there: {reason}'
                ) from error
            missing.append(name)
            draft.said.append(f'imports: {name} is not there, and the old backbone alone needed it')
    return missing


def _is_in_backbone(place: str) -> bool:
    return 'backbone' in place.split('.')


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
