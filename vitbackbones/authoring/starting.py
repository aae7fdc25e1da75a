"""The config that one begins with, and what every config of ours runs besides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from vitbackbones.data.configs import as_list
from vitbackbones.errors import UserError

from .draft import Draft, dicts_in, inherited

HOOKS = 'vitbackbones::_base_/hooks.py'


def draft_of(start: str) -> Draft:
    """A draft that inherits a config and what all of ours run: hooks, the pre-flight check first.

    Raises:
        UserError: there is no such config, it fails, or it is of the kind that nothing inherits.
    """
    draft = Draft([start])
    missing = _import_modules(draft)
    if not {'custom_hooks', 'custom_imports'} & {*draft.config}:
        draft.inherit(HOOKS)
        return draft
    ours = inherited([HOOKS])
    hooks = list(draft.get('custom_hooks') or [])
    types = {hook.get('type') for hook in hooks}
    added = [dict(type=hook.type) for hook in ours.custom_hooks if hook.type not in types]
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


def files_of(start: str) -> Iterator[Path]:
    """The file of a config, and those that it inherits by path."""
    if '::' in start or not Path(start).is_file():
        return
    path = Path(start).resolve()
    yield path
    try:
        statements = ast.parse(path.read_bytes()).body if path.suffix == '.py' else []
    except (SyntaxError, ValueError):  # reading it will say so; the second of NUL bytes
        return
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id='_base_')], value=value):
                try:
                    bases = as_list(ast.literal_eval(value))
                except ValueError:  # computed, so it cannot be known here
                    continue
                for base in bases:
                    yield from files_of(base if '::' in base else str(path.parent / base))


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
            if not users or any('backbone' not in place.split('.') for place in users):
                reason = ' '.join(str(error).split())
                raise UserError(
                    f'config {draft.bases[0]} imports {name}, which is not there: {reason}'
                ) from error
            missing.append(name)
            draft.said.append(f'imports: {name} is not there, and the old backbone alone needed it')
    return missing
