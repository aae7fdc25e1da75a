"""What the values of label maps stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitbackbones.errors import UserError

from .class_list import Colour, Named, palette
from .label_values import MOST_COLOURS, Values, is_grey

IGNORED = 255
_NO_CLASS = ('void', 'ignore', 'ignored')
_SHOWN = 5

#: Without a list of classes no data have more of them.
HIGHEST = 199


@dataclass
class Meaning:
    """What label maps mean.

    Attributes:
        classes: in the order of their labels.
        table: the label of each value that is not one itself; None if all are as mmseg wants them.
        said: lines about it.
    """

    classes: tuple[Named, ...]
    table: dict[int, int] | None = None
    said: list[str] = field(default_factory=list)


def interpret(
    maps: Mapping[str, Values], listed: Sequence[Named] | None, source: Path | None
) -> Meaning:
    """Find out what the values stand for.

    Args:
        maps: by path; all can be read.
        listed: the classes; None if nothing lists them.
        source: the file that does.

    Raises:
        UserError: the classes do not fit the values, or nothing tells what colours stand for.
    """
    first: dict[int, str] = {}  # a file that has it
    for path, found in maps.items():
        if not found.values:
            raise UserError(
                f'{path} has more than {MOST_COLOURS} colours: it is no label map, or one that was '
                'resized or compressed with losses'
            )
        for value in found.values:
            first.setdefault(value, path)
    coloured = [path for path, found in maps.items() if found.coloured]
    plain = [path for path, found in maps.items() if not found.coloured]
    if coloured and plain:
        raise UserError(
            f'{coloured[0]} has three channels and {plain[0]} one: label maps must be of one kind'
        )
    colours = listed is not None and all(one.colour for one in listed)
    if coloured and (colours or not all(map(is_grey, first))):
        return _of_colours(first, listed if colours else None, source)
    if coloured:  # indices that were saved as grey images
        meaning = _of_indices({value & 255: path for value, path in first.items()}, listed, source)
        table = meaning.table
        grey = {value & 255 for value in first}
        meaning.table = {v * 0x010101: v if table is None else table[v] for v in grey}
        return meaning
    if listed and colours:
        by_colour = _of_palette(maps, first, listed)
        if by_colour:
            return by_colour
    return _of_indices(first, listed, source, _palette_of(maps))


def _of_colours(
    first: Mapping[int, str], listed: Sequence[Named] | None, source: Path | None
) -> Meaning:
    if listed is None:
        value, path = max(first.items())
        lists = f'{source} gives no colours' if source else 'no file says which colours'
        raise UserError(
            f'{path} has colours such as {_words(value)}, and {lists} stand for which class: name '
            'a file with --classes, such as a .csv with the rows name,red,green,blue'
        )
    known = {_number(one.colour): one for one in listed if one.colour}
    unknown = {value: path for value, path in first.items() if value not in known}
    if unknown:
        value, path = next(iter(unknown.items()))
        more = f', and {len(unknown) - 1} more colours are not' if len(unknown) > 1 else ''
        raise UserError(
            f'{path} has the colour {_words(value)}, which is not in {source}{more}; pixels that '
            'are not to be learnt get a row named ignored'
        )
    classes = [one for one in listed if one.name.lower() not in _NO_CLASS]
    left_out = [one.name for one in listed if one not in classes]
    labels = {one: label for label, one in enumerate(classes)}
    table = {value: labels.get(one, IGNORED) for value, one in known.items()}
    said = [f'colours became indices, by {source}']
    if left_out:
        said.append(f'pixels of {" and ".join(left_out)} are not learnt')
    return Meaning(tuple(classes), {v: table[v] for v in first}, said)


def _of_palette(
    maps: Mapping[str, Values], first: Mapping[int, str], listed: Sequence[Named]
) -> Meaning | None:
    """By the colours of the files' palettes, where all maps have the same; None if they do not."""
    palettes = {
        tuple(found.palette[v] for v in first if v < len(found.palette)) for found in maps.values()
    }
    if len(palettes) != 1:
        return None
    (colours,) = palettes
    known = {_number(one.colour): label for label, one in enumerate(listed) if one.colour}
    if len(colours) < len(first) or not {*colours} <= {*known}:
        return None
    table = {value: known[colour] for value, colour in zip(first, colours, strict=True)}
    same = all(value == label for value, label in table.items())
    said = [] if same else ['indices follow the class list, by the colours of the palette']
    return Meaning(tuple(listed), None if same else table, said)


def _of_indices(
    first: Mapping[int, str],
    listed: Sequence[Named] | None,
    source: Path | None,
    colours: Sequence[Colour] = (),
) -> Meaning:
    values = sorted({*first} - {IGNORED})
    if listed and all(one.value is not None for one in listed):
        return _of_values(first, listed, source)
    if IGNORED in first and values in ([], [0]) and (listed is None or len(listed) <= 2):
        names = [one.name for one in listed] if listed else ['foreground']
        names = ['background', *names] if len(names) == 1 else names
        said = [f'the values 0 and 255 became 0 ({names[0]}) and 1 ({names[1]})']
        return Meaning(tuple(map(Named, names)), {0: 0, IGNORED: 1}, said)
    if not values:
        raise UserError(f'{next(iter(first.values()))} and all other label maps hold 255 alone')
    highest = values[-1]
    if listed is not None:
        if highest >= len(listed):
            raise UserError(
                f'{first[highest]} has the value {highest}, and {source} has {len(listed)} '
                f'classes: 0 to {len(listed) - 1}, and 255 for what is not learnt'
            )
        classes, said = tuple(listed), []
    else:
        if 16 * len(values) < highest:
            raise UserError(
                f'label maps have the values {_some(map(str, values))}, which are no indices of '
                'classes: name a file with --classes, such as a .csv with the rows name,value'
            )
        if highest > HIGHEST:
            raise UserError(
                f'{first[highest]} has the value {highest}, and no file lists the classes: masks '
                'that were resized or compressed with losses have such values between 0 and 255; '
                'where they are classes, name them with --classes'
            )
        classes = tuple(
            Named(f'class_{i}', colours[i] if i < len(colours) else None)
            for i in range(highest + 1)
        )
        said = [f'no file lists the classes: they are class_0 to class_{highest}']
    holes = [one.name for label, one in enumerate(classes) if label not in first]
    if holes:
        said.append(f'no label map shows {len(holes)} of {len(classes)} classes: {_some(holes)}')
    if IGNORED in first:
        said.append('pixels of the value 255 are not learnt')
    return Meaning(classes, None, said)


def _of_values(first: Mapping[int, str], listed: Sequence[Named], source: Path | None) -> Meaning:
    """By the value that the list has for each class."""
    classes = sorted(listed, key=lambda one: one.value or 0)
    table = {one.value or 0: label for label, one in enumerate(classes)}
    unknown = sorted({*first} - {*table, IGNORED})
    if unknown:
        raise UserError(
            f'{first[unknown[0]]} has the value {unknown[0]}, which is not in {source}; 255 is for '
            'what is not learnt'
        )
    if all(value == label for value, label in table.items()):
        return Meaning(tuple(classes))
    table.setdefault(IGNORED, IGNORED)
    return Meaning(tuple(classes), table, [f'values became indices, by {source}'])


def _palette_of(maps: Mapping[str, Values]) -> tuple[Colour, ...]:
    """The colours that most files have for their indices; empty if they have none."""
    (most, _), *_ = Counter(found.palette for found in maps.values()).most_common(1)
    colours = tuple((v >> 16, v >> 8 & 255, v & 255) for v in most)
    # A palette of greys is no palette.
    return () if all(red == green == blue for red, green, blue in colours) else colours


def colours_of(classes: Sequence[Named]) -> list[int]:
    """The palette of a file of their labels: red, green and blue of each of 256 values.

    With fewer PIL would write fewer bits for a pixel, and cut 255 off.
    """
    colours = [channel for colour in palette(classes) for channel in colour]
    return colours + [255] * (3 * 256 - len(colours))


def _number(colour: Colour | None) -> int:
    red, green, blue = colour or (0, 0, 0)
    return red << 16 | green << 8 | blue


def _some(words: Iterable[str]) -> str:
    every = [*words]
    return ', '.join(every[:_SHOWN]) + (', ...' if len(every) > _SHOWN else '')


def _words(value: int) -> str:
    return f'({value >> 16}, {value >> 8 & 255}, {value & 255})'
