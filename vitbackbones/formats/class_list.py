"""Files that list classes: names, and the colours or values that label maps have for them."""

from __future__ import annotations

import colorsys
import csv
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitbackbones.errors import UserError

from .tree import Tree

#: What such a file is called where nobody names it.
NAMES = (
    *('classes.txt', 'class_names.txt', 'obj.names', '_darknet.labels'),
    *('labelmap.txt', 'label_colors.txt'),
    *('class_dict.csv', '_classes.csv', 'classes.csv', 'classes.json', 'labelmap.json'),
)
Colour = tuple[int, int, int]
_RGB_FIRST = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)')  # CamVid
_CVAT = re.compile(r'([^:]+):(\d+),(\d+),(\d+):.*')  # name:r,g,b:parts:actions


class Named(NamedTuple):
    """A class.

    Attributes:
        value: of its pixels in label maps.
    """

    name: str
    colour: Colour | None = None
    value: int | None = None


def find_class_list(tree: Tree) -> Path | None:
    """The file of a folder that lists its classes, by its name; None if there is none.

    Raises:
        UserError: there are several that differ.
    """
    found = [Path(tree.full(file)) for file in tree.files if posixpath.basename(file) in NAMES]
    contents = {path.read_bytes() for path in found}
    if len(contents) > 1:
        raise UserError(
            f'{found[0]} and {found[1]} list classes, and not the same: name one with --classes'
        )
    return found[0] if found else None


def read_class_list(path: Path) -> tuple[Named, ...]:
    """Read a file of any of these forms: docs/own-data.md lists them.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the class list {path} cannot be read: {error}') from error
    try:
        suffix = path.suffix.lower()
        if suffix in ('.json', '.yaml', '.yml'):
            classes = [*_of_object(json.loads(text) if suffix == '.json' else yaml.safe_load(text))]
        elif suffix == '.csv':
            classes = [*_of_rows(csv.reader(text.splitlines(), skipinitialspace=True))]
        else:
            classes = [*_of_lines(text.splitlines())]
    except (ValueError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} is no list of classes: {reason}') from error
    for what, every in (
        ('name', [one.name for one in classes]),
        ('colour', [one.colour for one in classes if one.colour]),
        ('value', [one.value for one in classes if one.value is not None]),
    ):
        twice = [one for place, one in enumerate(every) if one in every[:place]]
        if twice:
            raise UserError(f'{path}: two classes have the {what} {twice[0]}')
    if not classes:
        raise UserError(f'{path} lists no classes')
    return tuple(classes)


def palette(classes: Sequence[Named]) -> tuple[Colour, ...]:
    """Their colours; where one has none, one unlike the others."""
    return tuple(one.colour or _colour(place) for place, one in enumerate(classes))


def _colour(place: int) -> Colour:
    # Steps of the golden ratio spread any number of hues evenly.
    red, green, blue = colorsys.hsv_to_rgb(place * 0.61803 % 1, 1 - 0.3 * (place // 8 % 3), 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _of_lines(lines: Iterable[str]) -> Iterator[Named]:
    for line in map(str.strip, lines):
        if not line or line.startswith('#'):
            continue
        if match := _CVAT.fullmatch(line):
            yield Named(match[1].strip(), _as_colour(match.groups()[1:]))
        elif match := _RGB_FIRST.fullmatch(line):
            yield Named(match[4], _as_colour(match.groups()[:3]))
        else:
            yield Named(line)


def _of_rows(rows: Iterable[list[str]]) -> Iterator[Named]:
    """Name; name and value, in either order; or name, red, green and blue."""
    first = True
    for row in ([cell.strip() for cell in row] for row in rows):
        if not any(row):
            continue
        numbers = [cell for cell in row if cell.isdecimal()]
        names = [cell for cell in row if not cell.isdecimal()]
        if first and len(row) > 1 and not numbers:
            first = False
            continue  # the names of columns
        if first and [cell.lower() for cell in row] in (['name'], ['class']):
            first = False
            continue
        first = False
        if len(names) == 1 and len(numbers) == 3:
            yield Named(names[0], _as_colour(numbers))
        elif len(names) == 1 and len(numbers) == 1:
            yield Named(names[0], None, _as_value(numbers[0]))
        elif len(row) == 1:
            yield Named(row[0])
        else:
            raise ValueError(f'{",".join(row)!r} is no name, name,value or name,red,green,blue')


def _of_object(content: Any) -> Iterator[Named]:
    if isinstance(content, dict) and 'names' in content:  # data.yaml
        content = content['names']
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, (list, tuple)):
                yield Named(str(key), _as_colour(value))
            elif str(key).isdecimal():
                yield Named(str(value), None, _as_value(key))
            else:
                yield Named(str(key), None, _as_value(value))
    elif isinstance(content, list):
        for row in content:
            if isinstance(row, dict):
                colour = row.get('color', row.get('colour'))
                value = row.get('value', row.get('id'))
                if not isinstance(row.get('name'), str):
                    raise ValueError(f'{row!r:.60} has no name')
                yield Named(
                    row['name'],
                    None if colour is None else _as_colour(colour),
                    None if value is None else _as_value(value),
                )
            else:
                yield Named(str(row))
    else:
        raise ValueError(
            f'it holds {content!r:.40}, neither a list nor names with colours or values'
        )


def _as_colour(numbers: Iterable[Any]) -> Colour:
    values = [_as_value(number) for number in numbers]
    if len(values) != 3:
        raise ValueError(f'{values} is no colour: red, green and blue')
    return values[0], values[1], values[2]


def _as_value(number: Any) -> int:
    if not str(number).strip().isdecimal() or not 0 <= int(number) <= 255:
        raise ValueError(f'{number!r:.40} is no whole number from 0 to 255')
    return int(number)
