"""A config on its way from the one it inherits to the one that is written."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from vitbackbones.errors import UserError
from vitbackbones.launch.loading import config_path, package_configs

#: What mmengine takes for a config of a package; of others, as those in `gn+ws`, it takes the path.
TAKEN = re.compile(r'\w+::\w+/\w')

#: Keys and indices from the top of a config to a value.
Place = tuple[str | int, ...]


def counted(number: int, what: str) -> str:
    """A number of things in words, as ``3 images``."""
    return f'{number} {what}{"s" * (number != 1)}'


class Draft:
    """A config that is being changed, and why.

    Attributes:
        bases: what the file inherits: ``package::path`` or a file's absolute path.
        original: what they amount to, but for what the file says again.
        config: what the file is to amount to.
        reasons: one comment for each place that has one, for the reader of the file.
        said: one line for each rule that acted, for whoever runs the command.
        beside: a folder next to the file that belongs to it, and so is named by the file's place.
    """

    def __init__(self, bases: Sequence[str]) -> None:
        """Read what is inherited.

        Raises:
            UserError: a base is missing or fails, or is of the kind that nothing inherits.
        """
        self.bases = tuple(map(as_base, bases))
        self.original = original = inherited(self.bases)
        self.config = copy.deepcopy(original)
        self.reasons: dict[Place, str] = {}
        self.said: list[str] = []
        self.beside: Path | None = None

    def inherit(self, base: str) -> None:
        """Add a base that says nothing of what is there already.

        Raises:
            UserError: it is missing or fails.
        """
        more = inherited([base])
        self.bases = (*self.bases, base)
        for config in (self.original, self.config):
            for key in more:
                config[key] = copy.deepcopy(more[key])

    def get(self, place: str, default: Any = None) -> Any:
        """What stands at a dotted place; ``default`` if nothing does."""
        node: Any = self.config
        for key in as_place(place):
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                return default
        return node

    def set(self, place: str, value: Any, why: str = '') -> None:
        """Put a value at a dotted place, which need not be there yet, nor what it is in.

        Args:
            why: the comment above it; of two for one place the later one is kept.
        """
        keys = as_place(place)
        node: Any = self.config
        for key in keys[:-1]:
            if isinstance(key, str) and not isinstance(node.get(key), (dict, list, tuple)):
                node[key] = ConfigDict()
            node = node[key]
        node[keys[-1]] = ConfigDict(value) if isinstance(value, dict) else value
        self._say(keys, why)

    def show(self, place: str) -> None:
        """Let the file say what stands at a dotted place, also if it is what is inherited."""
        *above, last = as_place(place)
        node: Any = self.original
        for key in above:
            node = node.get(key) if isinstance(node, (dict, Config)) else None
        if isinstance(node, dict):
            node.pop(last, None)

    def unsay(self, rule: str) -> None:
        """Take back what a rule has said, since another one has undone it."""
        self.said = [line for line in self.said if not line.startswith(f'{rule}: ')]

    def drop(self, place: str, why: str = '') -> None:
        """Take away what stands at a dotted place, if anything does."""
        keys = as_place(place)
        node = self.get('.'.join(map(str, keys[:-1]))) if keys[:-1] else self.config
        if isinstance(node, (dict, Config)) and keys[-1] in node:
            node.pop(keys[-1])
            self._say(keys[:-1] or keys, why)

    def explain(self, place: str, why: str) -> None:
        """Let a comment stand above what is at a dotted place."""
        self._say(as_place(place), why)

    def _say(self, place: Place, why: str) -> None:
        if why:
            self.reasons[place] = why


def as_base(name: str) -> str:
    """A config as ``_base_`` may name it: ``package::path``, or the absolute path of its file.

    Raises:
        UserError: there is no such config, or it imports its bases.
    """
    file = config_path(name)
    if re.search(r'^with read_base\(\)', file.read_text(encoding='utf-8'), flags=re.MULTILINE):
        twin = _in_the_other_style(file)
        raise UserError(
            f'config {name} imports its bases (`with read_base()`), which a file with `_base_` '
            f'cannot inherit; {f"inherit {twin}" if twin else "no other has its name"}'
        )
    return name if TAKEN.match(name) else str(file.absolute())


def _in_the_other_style(file: Path) -> str | None:
    """The config of the same name that mmdet or mmseg has with ``_base_``."""
    for package in ('mmdet', 'mmseg'):
        folder = package_configs(package)
        if folder is None:
            continue
        for path in sorted(folder.rglob('*.py')):
            if path.stem.replace('-', '_') == file.stem.replace('-', '_'):
                return f'{package}::{path.relative_to(folder).as_posix()}'
    return None


def inherited(bases: Sequence[str]) -> Config:
    """What a config amounts to that says nothing but ``_base_``; modules of its own stay unread.

    Read directly, a base of another package would lack the scope that its parts are looked up in.

    Raises:
        UserError: a base is missing or fails.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'inherited.py')
            file.write_text(f'_base_ = {list(bases)!r}\n', encoding='utf-8')
            return Config.fromfile(file, import_custom_modules=False)
    except Exception as error:  # a config is a program of the user's: whatever it raises is theirs
        names, reason = ', '.join(bases), ' '.join(str(error).split())
        raise UserError(
            f'config {names} cannot be read: {type(error).__name__}: {reason}'
        ) from error


def dicts_in(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All dicts of a part of a config, itself included, with their dotted places."""
    if isinstance(node, Mapping):
        yield place, node
        for key, value in node.items():
            yield from dicts_in(value, f'{place}.{key}' if place else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from dicts_in(value, f'{place}.{i}')


def as_place(dotted: str) -> Place:
    """``model.decode_head.0.in_channels`` as keys; digits are indices."""
    return tuple(int(key) if key.isdigit() else key for key in dotted.split('.') if key)
