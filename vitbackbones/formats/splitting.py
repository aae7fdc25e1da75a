"""Which images validate: a share of them, by their content, with every class on both sides."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from vitbackbones.errors import UserError

from .looking import whole_digest

SPLITS = ('train', 'val', 'test')
SHARE = 0.2  # of the images, for validation
# Roboflow's exports have several altered copies of one image, whose names have this in common.
_ROBOFLOW = re.compile(r'(.+)\.rf\.[0-9a-f]+\.')


class Item(NamedTuple):
    """An image.

    Attributes:
        path: of its file.
        digest: of its content.
        labels: indices of the classes that it shows.
    """

    path: str
    digest: bytes
    labels: Collection[int]


def choose_validation(items: Sequence[Item], seed: int) -> list[bool]:
    """For each image whether it validates.

    Images of one content are on one side. From the rarest class on, each gets its share of images
    on the side of validation, at least one, but never the last that training has.

    Raises:
        UserError: there are no two different images.
    """
    groups = _groups(items)
    if len(groups) < 2:
        images = f'{len(items)} image{"s" * (len(items) != 1)}'
        raise UserError(
            f'{images} cannot be split into training and validation: at least two that differ are '
            'needed'
        )
    labels = [{label for place in group for label in items[place].labels} for group in groups]
    order = sorted(range(len(groups)), key=lambda g: _draw(items, groups[g], seed))
    having: dict[int, list[int]] = defaultdict(list)
    for g in order:
        for label in labels[g]:
            having[label].append(g)
    training = Counter({label: len(those) for label, those in having.items()})
    chosen: set[int] = set()

    def choose(g: int) -> bool:
        if g in chosen or any(training[label] == 1 for label in labels[g]):
            return False
        chosen.add(g)
        training.subtract(labels[g])
        return True

    for label in sorted(having, key=lambda label: (len(having[label]), label)):
        wanted = max(1, int(SHARE * len(having[label])))
        there = sum(g in chosen for g in having[label])
        for g in having[label]:
            if there >= wanted:
                break
            there += choose(g)
    number = sum(len(groups[g]) for g in chosen)
    wanted = max(1, round(SHARE * len(items)))
    for g in order:  # those without objects, and what is still missing
        if len(groups[g]) <= wanted - number and choose(g):
            number += len(groups[g])
    if not chosen:  # each has the only objects of a class, or is many images
        chosen.add(min(order, key=lambda g: len(groups[g])))
    validating = {place for g in chosen for place in groups[g]}
    return [place in validating for place in range(len(items))]


def told_apart(splits: Mapping[str, Sequence[Item]]) -> dict[str, list[Item]]:
    """The same, with equal digests only where all of the content is equal."""
    numbers = Counter(item.digest for items in splits.values() for item in items)
    return {
        split: [
            item._replace(digest=whole_digest(item.path)) if numbers[item.digest] > 1 else item
            for item in items
        ]
        for split, items in splits.items()
    }


def in_two_splits(splits: Mapping[str, Sequence[Item]]) -> dict[tuple[str, str], list[str]]:
    """By pairs of splits, the paths of images in the second whose content the first has, too."""
    found = {}
    names = [name for name in SPLITS if name in splits]
    for i, first in enumerate(names):
        contents = {item.digest for item in splits[first]}
        for second in names[i + 1 :]:
            both = [item.path for item in splits[second] if item.digest in contents]
            if both:
                found[first, second] = both
    return found


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Places of images that must stay together, in the order of their first ones."""
    groups: dict[bytes | str, list[int]] = {}
    for place, item in enumerate(items):
        keys: list[bytes | str] = [item.digest]
        match = _ROBOFLOW.match(item.path)
        if match:
            keys.append(match[1])
        known: list[list[int]] = []
        for key in keys:
            if key in groups and all(groups[key] is not one for one in known):
                known.append(groups[key])
        merged = known[0] if known else []
        for other in known[1:]:
            merged += other
            groups.update({key: merged for key, group in groups.items() if group is other})
        merged.append(place)
        groups.update(dict.fromkeys(keys, merged))
    distinct = {id(group): group for group in groups.values()}
    return sorted((sorted(group) for group in distinct.values()), key=lambda group: group[0])


def _draw(items: Sequence[Item], group: Sequence[int], seed: int) -> bytes:
    """A group's place in a random order that depends on what is in the images alone."""
    least = min(items[place].digest for place in group)
    return hashlib.blake2b(least, digest_size=16, key=str(seed).encode()).digest()
