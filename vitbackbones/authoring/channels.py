"""Necks and heads brought to the channels of other maps, and to their positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .draft import Draft
from .measuring import Map

#: Parts of a detector or segmentor that read no maps.
NO_READERS = ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg', 'init_cfg')

#: Heads of mmseg, which read the last map unless `in_index` says otherwise.
INDEXED = ('decode_head', 'auxiliary_head')

WHY = 'Channels of the new maps.'


class Rewiring:
    """Changes what a part of the model says of maps that others take the place of.

    A number is replaced where it is known to be of a map, by its place in a list or by `in_index`;
    inside of heads a number alone is not, for it may be one of the head's own.

    Attributes:
        changed: places that say something else now.
        recognised: whether there was any that spoke of the old maps.
    """

    def __init__(
        self, draft: Draft, place: str, old: Sequence[Map], new: Sequence[Map], positions: Any
    ) -> None:
        """
        Args:
            place: of the part with the backbone.
            old, new: maps of before and of now.
            positions: {position of an old map that was read: position of the one in its place}.
        """
        self.draft = draft
        self.place = place
        self.old = [m.channels for m in old]
        self.positions: dict[int, int] = dict(positions)
        self.new = {i: new[at].channels for i, at in self.positions.items()}
        self.changed: list[str] = []
        self.recognised = False

    # --------------------------------------------------------------------------------- necks

    def neck(self) -> None:
        """The first neck."""
        place = f'{self.place}.neck'
        if isinstance(self.draft.get(place), (list, tuple)):
            place += '.0'
        neck = self.draft.get(place)
        unread = len(self.old) - len(self.new)
        for key, value in list(neck.items()):
            if 'in_channel' not in key and key not in ('in_dim', 'input_dim'):
                continue
            fit = self._by_value(value)
            if fit is None:
                continue
            if isinstance(value, (list, tuple)):
                if unread:  # in front: they are left out of the list, and the neck begins with it
                    self._set(f'{place}.start_level', 0)
                outs = neck.get('out_channels')
                if isinstance(outs, (list, tuple)) and list(outs[: len(value)]) == list(value):
                    # It hands its maps on, as SSD's does.
                    self._set(f'{place}.out_channels', type(outs)([*fit, *outs[len(value) :]]))
            self._set(f'{place}.{key}', fit)

    # --------------------------------------------------------------------------------- heads

    def heads(self) -> None:
        """All readers of the maps."""
        owner = self.draft.get(self.place)
        for key, value in list(owner.items()):
            if key in NO_READERS or not isinstance(value, (dict, list, tuple)):
                continue
            several = isinstance(value, (list, tuple))
            for i, head in enumerate(value if several else [value]):
                if isinstance(head, Mapping):
                    place = f'{self.place}.{key}{f".{i}" if several else ""}'
                    self._head(head, place, top=True, indexed=key in INDEXED)

    def _head(self, head: Mapping[str, Any], place: str, *, top: bool, indexed: bool) -> None:
        channels = head.get('in_channels')
        if channels is not None and (
            'in_index' in head or (top and indexed and isinstance(channels, int))
        ):
            self._by_index(head, place)
        elif isinstance(channels, (list, tuple)) or (top and isinstance(channels, int)):
            fit = self._by_value(channels)
            if fit is not None:
                self._set(f'{place}.in_channels', fit)
        if 'c1_in_channels' in head and 0 in self.new:
            self._set(f'{place}.c1_in_channels', self.new[0])
        for key, value in list(head.items()):
            for at, part in _dicts_in(value, f'{place}.{key}'):
                self._head(part, at, top=False, indexed=indexed)

    def _by_index(self, head: Mapping[str, Any], place: str) -> None:
        """What a head reads it chooses by position."""
        channels, index = head['in_channels'], head.get('in_index', -1)
        several = isinstance(index, (list, tuple))
        chosen = [i % len(self.old) for i in (index if several else [index])]
        was = [self.old[i] for i in chosen]
        own = list(channels) if isinstance(channels, (list, tuple)) else [channels]
        if own != was or not {*chosen} <= self.new.keys():
            return
        now, at = [self.new[i] for i in chosen], [self.positions[i] for i in chosen]
        kind = type(channels)
        self._set(f'{place}.in_channels', kind(now) if several else now[0])
        if head.get('num_convs') == 0 and head.get('channels') == sum(own):  # it only classifies
            self._set(f'{place}.channels', sum(now))
        count = max(self.positions.values()) + 1
        if at != [i + count if i < 0 else i for i in (index if several else [index])]:
            self._set(f'{place}.in_index', type(index)(at) if several else at[0])

    # -------------------------------------------------------------------------------- numbers

    def _by_value(self, value: Any) -> Any:
        """What takes the place of channels of all maps, in either order, or of one; else None."""
        read = sorted(self.new)
        if isinstance(value, int):
            same = [i for i in read if self.old[i] == value]
            return self.new[same[-1]] if same else None
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) for v in value):
            return None
        now = [self.new[i] for i in read]
        for own in (self.old, [self.old[i] for i in read]):
            if list(value) == own:
                return type(value)(now)
            if list(value) == own[::-1]:
                return type(value)(now[::-1])
        return None

    def _set(self, place: str, value: Any) -> None:
        self.recognised = True
        if self.draft.get(place) != value:
            self.draft.set(place, value)
            part = '.'.join(place.split('.')[: self.place.count('.') + 2])
            if not self.changed and part != place:
                self.draft.explain(part, WHY)
            self.changed.append(place)


def positions_read(owner: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """The positions of ``count`` maps that the heads of a model without neck read."""
    read: set[int] = set()
    for key in owner:
        if key in NO_READERS:
            continue
        heads = list(_dicts_in(owner[key], key))
        if heads and key not in INDEXED:
            return tuple(range(count))
        for _, head in heads:
            index = _indices(head)
            if index is None:
                return tuple(range(count))
            read |= {i % count for i in index}
    return tuple(sorted(read)) or tuple(range(count))


def _indices(head: Mapping[str, Any]) -> list[int] | None:
    """What a head of mmseg reads, its parts too; None if it does not say, and reads all."""
    found = [0] if 'c1_in_channels' in head else []
    channels, index = head.get('in_channels'), head.get('in_index')
    if index is not None:
        found += index if isinstance(index, (list, tuple)) else [index]
    elif isinstance(channels, (list, tuple)):
        return None
    elif channels is not None:
        found.append(-1)
    if channels is not None:
        return found
    # A head of heads: those parts that have maps of their own say which.
    parts = [
        part
        for key, value in head.items()
        for _, part in _dicts_in(value, key)
        if 'in_index' in part
    ]
    for part in parts:
        inner = _indices(part)
        if inner is None:
            return None
        found += inner
    return found if parts else None


def _dicts_in(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        yield place, value
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            if isinstance(part, Mapping):
                yield f'{place}.{i}', part
