"""Which files of a folder are label maps, and of which images."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vitbackbones.errors import UserError

from .given_splits import shared_end
from .label_values import looks_like_labels
from .tree import Tree, purpose, stem

_LABELS = re.compile(
    '(train|val|test)?'
    '(labels?|labelmaps?|labell?ed|masks?|anns?|annot|annotations?|gt|groundtruth|seg|segm|segs'
    '|segmentations?|segmentationclass(png)?|semantic|labelids|labeltrainids)'
)
_IMAGES = re.compile('(jpeg)?(images?|imgs?|photos?|rgb|raw)')
_OF_OBJECTS = re.compile('segmentationobject(png)?|instances?|instanceids|panoptic')
_SAMPLE = 5  # files that are decoded to tell label maps from images


class Pairing(NamedTuple):
    """Images and their label maps.

    Attributes:
        pairs: both paths below the folder.
        suffix: what the name of a label map has behind that of its image, such as '_labels'.
        images, maps: those that have no other half.
    """

    pairs: tuple[tuple[str, str], ...]
    suffix: str
    images: tuple[str, ...]
    maps: tuple[str, ...]


def find_label_maps(tree: Tree) -> Pairing | None:
    """The pairs of a folder; None if it has none.

    Folders that are called so hold label maps (docs/own-data.md has the names), and so do files
    whose names end so; else those of two files of one name that has few values.

    Raises:
        UserError: it is not clear which files they are.
    """
    kinds: dict[str, str] = {}
    for file in tree.images:
        folder = posixpath.dirname(file)
        if folder not in kinds:
            kinds[folder] = _kind(folder)
    pngs = tree.ending('.png')
    of_objects = {file for file in pngs if kinds[posixpath.dirname(file)] == 'objects'}
    maps = [file for file in pngs if kinds[posixpath.dirname(file)] == 'labels']
    images = [file for file in tree.images if kinds[posixpath.dirname(file)] in ('', 'images')]
    if maps and images:
        return _pair(tree, images, maps)
    if maps:  # all of it lies in a folder of such a name
        images, maps = [file for file in tree.images if file not in of_objects], []
    named = [file for file in images if file.endswith('.png') and _LABELS.search(_last(file))]
    by_stem = _by_stem(file for file in images if file not in {*named})
    named = [file for file in named if _cut(stem(file), by_stem) is not None]
    if named:
        rest = {*named}
        return _pair(tree, [file for file in images if file not in rest], named)
    return _by_content(tree, images)


def _kind(folder: str) -> str:
    """What a folder holds by its name: 'labels', 'images', 'objects', or '' if it does not say."""
    for part in reversed(folder.split('/')):
        words = [*_words(part.lower()), *_words(part)]
        for kind, pattern in (('objects', _OF_OBJECTS), ('labels', _LABELS), ('images', _IMAGES)):
            if any(map(pattern.fullmatch, words)):
                return kind
    return ''


def _words(name: str) -> list[str]:
    """Those of a name, in small letters; SegmentationClass has two."""
    return [word.lower() for word in re.findall('[A-Z]*[a-z]+|[A-Z]+', name)]


def _last(file: str) -> str:
    """The last word of a name: 'mask' of x_mask.png."""
    name = stem(file).lower()
    last = [name, *_words(name)][-1]
    return last if last != name and _LABELS.fullmatch(last) else ''


def _by_content(tree: Tree, images: Sequence[str]) -> Pairing | None:
    """Pairs of one name, of which one has few values, in two folders or of two suffixes."""
    by_stem = _by_stem(images)
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for file in images:
        if len(by_stem[stem(file)]) > 1:
            groups[posixpath.dirname(file), posixpath.splitext(file)[1].lower()].append(file)
    alike = {}
    for key, files in groups.items():
        few = files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]
        alike[key] = key[1] == '.png' and all(looks_like_labels(tree.full(file)) for file in few)
    if not any(alike.values()) or all(alike.values()):
        return None
    maps = [file for key, files in groups.items() if alike[key] for file in files]
    taken = {*maps}
    pairing = _pair(tree, [file for file in images if file not in taken], maps)
    return pairing if pairing and not pairing.suffix else None


def _pair(tree: Tree, images: Sequence[str], maps: Sequence[str]) -> Pairing | None:
    by_stem = _by_stem(images)
    suffixes = {file: _cut(stem(file), by_stem) for file in maps}
    numbers = Counter(suffix for suffix in suffixes.values() if suffix is not None)
    if not numbers:
        return None
    (suffix, most), *others = numbers.most_common(2)
    if others and 2 * others[0][1] >= most:
        names = [
            next(file for file, own in suffixes.items() if own == end)
            for end in (suffix, others[0][0])
        ]
        raise UserError(
            f'{tree.root}: {names[0]} and {names[1]} may both be label maps: leave one kind of them'
        )
    pairs: dict[str, str] = {}
    alone = []
    for file in maps:
        found = by_stem.get(stem(file).removesuffix(suffix), ()) if suffixes[file] == suffix else ()
        if not found:
            alone.append(file)
            continue
        image = max(found, key=lambda image: _alike(image, file))
        if image in pairs:
            raise UserError(
                f'{tree.root}: {pairs[image]} and {file} may both be the label map of {image}'
            )
        pairs[image] = file
    folders = {posixpath.dirname(image) for image in pairs}
    without = [i for i in images if i not in pairs and posixpath.dirname(i) in folders]
    return Pairing(tuple(sorted(pairs.items())), suffix, tuple(without), tuple(alone))


def _by_stem(files: Iterable[str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        found[stem(file)].append(file)
    return found


def _cut(name: str, by_stem: Mapping[str, Sequence[str]]) -> str | None:
    """What a label map's name has behind that of an image; None if there is no such image."""
    if name in by_stem:
        return ''
    for place in range(len(name) - 1, 0, -1):
        if name[place] in '_-.' and name[:place] in by_stem:
            return name[place:]
    return None


def _alike(image: str, file: str) -> tuple[bool, int]:
    """How well two paths go together: by their split, and the folders that end them."""
    same = purpose(posixpath.dirname(image)) == purpose(posixpath.dirname(file))
    return same, shared_end(image, file)
