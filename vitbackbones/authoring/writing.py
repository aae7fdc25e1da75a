"""The file of a draft: what it inherits and only what is different, with comments that say why."""

from __future__ import annotations

import keyword
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vitbackbones import files
from vitbackbones.errors import UserError

from .draft import Draft, Place

WIDTH = 100  # of a line
DEEPEST = 40  # column from which on lines are not filled, but begin anew
DELETE = '_delete_'
ROOT = 'data_root'  # the name of a folder that is written once


def as_text(draft: Draft, folder: Path, header: str = '') -> str:
    """The content of the file.

    Args:
        folder: where it will be.
        header: comment at its top, wrapped here.
    """
    names = [
        base if '::' in base else Path(os.path.relpath(base, folder)).as_posix()
        for base in draft.bases
    ]
    bases = names[0] if len(names) == 1 else names
    lines = [*_comment(header, 0), *_assignment('_base_', bases, (), {}, 0, ' = ')]
    lines[-1] = lines[-1].removesuffix(',')
    changes = difference(draft.original, draft.config)
    root = changes.pop(ROOT, None)
    if root is not None:  # first, since others name it
        changes = {ROOT: root, **changes}
    for key, value in changes.items():
        if lines[-1] != '' and _has_comment((key,), draft.reasons):
            lines.append('')
        if not _has_comment((key,), {place: '' for place in draft.reasons if place != (key,)}):
            value = _lengthened(key, draft.original.get(key), value)
        same = _said_before(changes, key)
        if same:
            lines += [*_comment(draft.reasons.get((key,), ''), 0), f'{key} = {same}']
            continue
        lines += _named(_assignment(key, value, (key,), draft.reasons, 0, ' = '), key, root, draft)
        lines[-1] = lines[-1].removesuffix(',')
    return '\n'.join(lines) + '\n'


def _said_before(changes: Mapping[str, Any], key: str) -> str:
    """The name of an earlier part that says the same, as validation says what the test does."""
    value = changes[key]
    if not isinstance(value, dict) or len(_words(value)) < WIDTH // 2:
        return ''
    earlier = list(changes)[: list(changes).index(key)]
    return next((name for name in earlier if changes[name] == value), '')


def _named(lines: list[str], key: str, root: Any, draft: Draft) -> list[str]:
    """Paths below the data's folder by its name, those beside the file by the file's own place."""
    if isinstance(root, str) and key != ROOT and repr(root) == f"'{root}'":
        lines = [line.replace(f"'{root}'", ROOT) for line in lines]
        lines = [line.replace(f"'{root.rstrip('/')}/", f"{ROOT} + '/") for line in lines]
    if draft.beside is not None:
        place = draft.beside.parent.as_posix().rstrip('/')
        beside = f'{{{{ fileDirname }}}}/{draft.beside.name}'
        lines = [line.replace(f"'{place}/{draft.beside.name}", f"'{beside}") for line in lines]
    return lines


def write_draft(draft: Draft, path: Path, header: str = '') -> None:
    """Write the file, and see that reading it gives what was meant.

    Raises:
        UserError: it cannot be written.
        RuntimeError: it reads otherwise, which is a fault of this package; nothing is left behind.
    """
    # Beside it, since `_base_` may be relative; under a name that is nobody's.
    trial = path.with_name(f'.{path.stem}-{os.getpid()}.py')
    try:
        files.write(trial, as_text(draft, path.parent, header))
        read = Config.fromfile(trial)
        for key in {*read, *draft.config}:
            if plain(read.get(key)) != plain(draft.config.get(key)):
                raise RuntimeError(
                    f'{key} of {path} would read {read.get(key)!r} in the place of '
                    f'{draft.config.get(key)!r}'
                )
        trial.replace(path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        trial.unlink(missing_ok=True)


class _Expression(str):
    """Words of a config that stand for a value."""

    def __repr__(self) -> str:
        return str(self)


def _lengthened(key: str, old: Any, new: Any) -> Any:
    """A list that begins with what its base has, as that and the rest."""
    if not isinstance(old, list) or not isinstance(new, list) or not 0 < len(old) < len(new):
        return new
    if plain(old) != new[: len(old)]:
        return new
    return [_Expression(f'*_base_.{key}'), *new[len(old) :]]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a child config says to make ``new`` of ``old``; a dict that lost a key is said whole.

    mmengine merges dicts key by key and replaces all else. What is gone at the top is None.
    """
    found = {key: None for key in old if key not in new and old[key] is not None}
    for key in new:
        if key not in old:
            found[key] = plain(new[key])
        elif plain(new[key]) != plain(old[key]):
            found[key] = _change(old[key], new[key])
    return found


def _change(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping):
        return plain(new)
    if isinstance(old, Mapping) and set(old) <= set(new):
        return difference(old, new)
    return {DELETE: True, **plain(new)}


def plain(node: Any) -> Any:
    """A config's value in Python's own types."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(map(plain, node))
    return node


# ------------------------------------------------------------------------------------- the words


def _assignment(
    name: str, value: Any, place: Place, reasons: Mapping[Place, str], indent: int, sign: str = '='
) -> list[str]:
    """``name=value,`` in as many lines as it needs, below its comment."""
    start = f'{" " * indent}{name}{sign}'
    return [
        *_comment(reasons.get(place, ''), indent),
        *_value(start, value, place, reasons, indent),
    ]


def _value(
    start: str, value: Any, place: Place, reasons: Mapping[Place, str], indent: int
) -> list[str]:
    """A value behind ``start``, and a comma: in one line, filled lines, or one part in each."""
    one = f'{start}{_words(value)},'
    commented = _has_comment(place, {key: '' for key in reasons if key != place})
    if not isinstance(value, (dict, list, tuple)) or not value:
        return [one]
    if len(one) - (indent == 0) <= WIDTH and not commented:  # at the left it loses its comma
        return [one]
    opening, closing, parts = _parts(value)
    start += opening
    if not commented and len(start) <= DEEPEST and not _is_list_of_dicts(value):
        words = [f'{name}{_words(each)},' for _, name, each in parts]
        room = WIDTH - len(start) - 2  # for brackets that close
        if max(map(len, words)) <= room:
            filled = _filled(words, room)
            lines = [start + filled[0], *(' ' * len(start) + line for line in filled[1:])]
            return _closed(lines, value, closing, indent)
    lines = [start]
    joins = False  # whether what comes next may stand in the same line
    for key, name, each in parts:
        lead = ' ' * (indent + 4)
        own = _comment(reasons.get((*place, key), ''), indent + 4)
        new = [*own, *_value(lead + name, each, (*place, key), reasons, indent + 4)]
        short = len(new) == 1 and not isinstance(value, (list, tuple))
        if short and joins and len(lines[-1]) + len(new[0].lstrip()) < WIDTH:
            lines[-1] += f' {new[0].lstrip()}'
        else:
            lines += new
        joins = short
    return _closed(lines, value, closing, indent)


def _parts(value: Any) -> tuple[str, str, list[tuple[Any, str, Any]]]:
    """What opens and closes a container; key, words before it and value of each of its parts."""
    if isinstance(value, dict) and all(map(_is_keyword, value)):
        return 'dict(', ')', [(key, f'{key}=', each) for key, each in value.items()]
    if isinstance(value, dict):
        return '{', '}', [(key, f'{key!r}: ', each) for key, each in value.items()]
    opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
    return opening, closing, [(i, '', each) for i, each in enumerate(value)]


def _closed(lines: list[str], value: Any, closing: str, indent: int) -> list[str]:
    """With the bracket behind the last part, if there is room for it."""
    alone = isinstance(value, tuple) and len(value) == 1
    last = lines[-1] if alone else lines[-1].removesuffix(',')
    if len(last) + len(closing) + 1 > WIDTH:
        return [*lines, f'{" " * indent}{closing},']
    return [*lines[:-1], f'{last}{closing},']


def _filled(words: list[str], width: int) -> list[str]:
    """As many in each line as it holds."""
    lines = ['']
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f'{lines[-1]} {word}'.strip()
    return lines


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(each, dict) for each in value)


def _words(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        if all(map(_is_keyword, value)):
            return f'dict({", ".join(f"{key}={_words(each)}" for key, each in value.items())})'
        return f'{{{", ".join(f"{key!r}: {_words(each)}" for key, each in value.items())}}}'
    if isinstance(value, tuple):
        return f'({", ".join(map(_words, value))}{"," if len(value) == 1 else ""})'
    if isinstance(value, list):
        return f'[{", ".join(map(_words, value))}]'
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return _short(value)
    return repr(value)


def _short(value: float) -> str:
    """``6e-05`` as ``6e-5``."""
    mantissa, _, exponent = repr(value).partition('e')
    return f'{mantissa}e{int(exponent)}' if exponent else mantissa


def _is_keyword(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _has_comment(place: Place, reasons: Mapping[Place, str]) -> bool:
    return any(key[: len(place)] == place for key in reasons)


def _comment(text: str, indent: int) -> Iterator[str]:
    lead = ' ' * indent + '# '
    for paragraph in text.splitlines():
        yield from textwrap.wrap(
            paragraph, WIDTH, initial_indent=lead, subsequent_indent=lead, break_long_words=False
        )
