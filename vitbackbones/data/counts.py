"""How much a dataset holds to learn from: its images, and its objects or pixels class by class."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .values import is_number

T = TypeVar('T')


class Fate(IntEnum):
    """What mmdet's datasets make of an annotation."""

    OBJECT = 0
    RUN_LENGTHS = 1  # an object, whose mask is no polygon
    CROWD = 2
    IGNORED = 3
    OUTSIDE = 4
    NO_AREA = 5
    NO_MASK = 6
    NOT_CHOSEN = 7
    UNKNOWN_IMAGE = 8
    BROKEN = 9


#: Why an annotation is no object to learn, as the table and the file of ``--out`` say it.
REASONS = {
    Fate.RUN_LENGTHS: 'run-length mask under poly2mask=False',
    Fate.CROWD: 'crowd',
    Fate.IGNORED: 'marked ignore',
    Fate.OUTSIDE: 'outside the image',
    Fate.NO_AREA: 'without area',
    Fate.NO_MASK: 'mask without area',
    Fate.NOT_CHOSEN: 'class not chosen',
    Fate.UNKNOWN_IMAGE: 'image not listed',
    Fate.BROKEN: 'not readable',
}
OF_IMAGES = 'of images left out'

NO_ANNOTATIONS = 'no annotations (filter_empty_gt)'
TOO_SMALL = 'too small (min_size)'
NOT_IN_INDICES = 'not among indices'


class Rows(NamedTuple):
    """The annotations of a COCO file, as far as counting needs them.

    Attributes:
        classes: names, in the order of labels.
        image: (N,) position of each annotation's image in the file, -1 for none.
        label: (N,) index into ``classes``, -1 for none.
        fate: (N,) of :class:`Fate`.
        boxes: (N, 4) in pixels as the file has them, NaN where it has none.
        sizes: (M, 2) width and height of each image in pixels, NaN where unknown.
    """

    classes: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    fate: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray


class Tally:
    """Collects :class:`Rows`, one annotation at a time."""

    def __init__(self, classes: Sequence[str], sizes: Sequence[tuple[Any, Any]]) -> None:
        self.classes = tuple(classes)
        self.sizes = sizes
        self._labels = {name: label for label, name in enumerate(self.classes)}
        self._image, self._label, self._fate = array('i'), array('i'), array('B')
        self._boxes = array('f')

    def add(
        self, fate: Fate, image: int = -1, name: str | None = None, box: Sequence[float] = ()
    ) -> None:
        """Note an annotation of the class ``name`` in the image at position ``image``."""
        self._image.append(image)
        self._label.append(self._labels.get(name, -1) if name is not None else -1)
        self._fate.append(fate)
        self._boxes.extend(box or _NO_BOX)

    def rows(self) -> Rows:
        sizes = [[_pixels(width), _pixels(height)] for width, height in self.sizes]
        return Rows(
            classes=self.classes,
            image=np.array(self._image, np.int32),
            label=np.array(self._label, np.int32),
            fate=np.array(self._fate, np.uint8),
            boxes=np.array(self._boxes, np.float32).reshape(-1, 4),
            sizes=np.array(sizes, np.float64).reshape(-1, 2),
        )


@dataclass(frozen=True)
class ObjectCounts:
    """Images and objects that mmdet's CocoDataset hands on.

    Attributes:
        images: listed in the file.
        images_left_out: their number by reason.
        images_without_objects: of those that are used.
        annotations: listed in the file.
        annotations_left_out: their number by reason.
        objects: by class, what is left.
        images_of_class: by class, the images that show it.
    """

    images: int
    images_left_out: dict[str, int]
    images_without_objects: int
    annotations: int
    annotations_left_out: dict[str, int]
    objects: dict[str, int]
    images_of_class: dict[str, int]

    @property
    def images_used(self) -> int:
        return self.images - sum(self.images_left_out.values())

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        """Those of two datasets that are trained on together."""
        return ObjectCounts(
            images=self.images + other.images,
            images_left_out=_added(self.images_left_out, other.images_left_out),
            images_without_objects=self.images_without_objects + other.images_without_objects,
            annotations=self.annotations + other.annotations,
            annotations_left_out=_added(self.annotations_left_out, other.annotations_left_out),
            objects=_added(self.objects, other.objects),
            images_of_class=_added(self.images_of_class, other.images_of_class),
        )

    def as_json(self) -> dict[str, Any]:
        return dict(
            images=dict(
                listed=self.images,
                used=self.images_used,
                left_out=self.images_left_out,
                without_objects=self.images_without_objects,
            ),
            annotations=dict(
                listed=self.annotations,
                used=sum(self.objects.values()),
                left_out=self.annotations_left_out,
            ),
            objects=self.objects,
        )


def count_objects(
    rows: Rows,
    *,
    filter_cfg: Mapping[str, Any] | None = None,
    indices: int | Sequence[int] | None = None,
    poly2mask: bool = True,
) -> ObjectCounts:
    """What is left of annotations after mmdet's own filters.

    Args:
        filter_cfg: of the dataset; None where it tests.
        indices: the images of the dataset that are taken, all if None.
        poly2mask: whether masks become bitmaps; otherwise run lengths are ignored.
    """
    number = len(rows.sizes)
    listed = rows.image >= 0
    left_out: dict[str, int] = {}
    used = np.ones(number, bool)

    def leave_out(which: np.ndarray, reason: str) -> None:
        if (which & used).any():
            left_out[reason] = int((which & used).sum())
            used[which] = False

    options = filter_cfg or {}
    if options.get('filter_empty_gt', False):  # of whatever fate, as mmdet has it
        annotated = np.zeros(number, bool)
        annotated[rows.image[listed & (rows.label >= 0)]] = True
        leave_out(~annotated, NO_ANNOTATIONS)
    leave_out(rows.sizes.min(1) < options.get('min_size', 0), TOO_SMALL)
    if indices is not None:
        rest = np.ones(number, bool)
        rest[[*take(np.flatnonzero(used).tolist(), indices)]] = False
        leave_out(rest, NOT_IN_INDICES)

    kept = rows.fate == Fate.OBJECT
    if poly2mask:
        kept |= rows.fate == Fate.RUN_LENGTHS
    lost = {
        reason: int(((rows.fate == fate) & ~kept).sum())
        for fate, reason in REASONS.items()
        if ((rows.fate == fate) & ~kept).any()
    }
    in_used = np.zeros(len(rows.image), bool)
    in_used[listed] = used[rows.image[listed]]
    if (kept & ~in_used).any():
        lost[OF_IMAGES] = int((kept & ~in_used).sum())
    kept &= in_used

    kept &= rows.label >= 0  # of no category: said as an error of the row
    classes = max(len(rows.classes), 1)
    pairs = np.unique(rows.image[kept].astype(np.int64) * classes + rows.label[kept])
    objects = np.bincount(rows.label[kept], minlength=len(rows.classes))
    images_of = np.bincount(pairs % classes, minlength=len(rows.classes))
    return ObjectCounts(
        images=number,
        images_left_out=left_out,
        images_without_objects=int(used.sum()) - len(np.unique(rows.image[kept])),
        annotations=len(rows.image),
        annotations_left_out=lost,
        objects=dict(zip(rows.classes, objects.tolist(), strict=True)),
        images_of_class=dict(zip(rows.classes, images_of.tolist(), strict=True)),
    )


def take(items: Sequence[T], indices: int | Sequence[int] | None) -> Sequence[T]:
    """Those that mmengine's datasets keep by their option ``indices``."""
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[i] for i in indices if -len(items) <= i < len(items)]


@dataclass(frozen=True)
class ImageCounts:
    """Images of a classification, by class.

    Attributes:
        images: by class, in the order of the labels.
        unlabelled: images without a class.
    """

    images: dict[str, int]
    unlabelled: int = 0

    def __add__(self, other: ImageCounts) -> ImageCounts:
        """Those of two datasets that are trained on together."""
        return ImageCounts(_added(self.images, other.images), self.unlabelled + other.unlabelled)

    def as_json(self) -> dict[str, Any]:
        listed = sum(self.images.values()) + self.unlabelled
        return dict(
            images=dict(listed=listed, used=listed, left_out={}), images_of_class=self.images
        )


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of label maps as they are trained on.

    Attributes:
        images: listed in the dataset.
        read: the label maps that were.
        values: (256,) pixels of each value in the files.
        pixels: by class.
        images_of_class: by class, the label maps that show it.
        ignored: pixels of the ignored label.
    """

    images: int
    read: int
    values: np.ndarray
    pixels: dict[str, int]
    images_of_class: dict[str, int]
    ignored: int

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """Those of two datasets that are trained on together."""
        return PixelCounts(
            images=self.images + other.images,
            read=self.read + other.read,
            values=self.values + other.values,
            pixels=_added(self.pixels, other.pixels),
            images_of_class=_added(self.images_of_class, other.images_of_class),
            ignored=self.ignored + other.ignored,
        )

    def as_json(self) -> dict[str, Any]:
        return dict(
            images=dict(listed=self.images, used=self.images, left_out={}),
            label_maps=dict(listed=self.images, read=self.read),
            pixels=self.pixels,
            ignored_pixels=self.ignored,
        )


def count_pixels(
    values: np.ndarray,
    files: np.ndarray,
    *,
    trained: np.ndarray,
    classes: Sequence[str],
    ignore: int,
    images: int,
    read: int,
) -> PixelCounts:
    """Sum up label maps.

    Args:
        values: (256,) pixels of each value in the files.
        files: (256,) those that have each label after that.
        trained: (256,) the label that each value becomes, see :func:`trained_labels`.
    """
    pixels = np.bincount(trained, weights=values, minlength=256).astype(np.int64).tolist()
    labels = {name: label for label, name in enumerate(classes) if label != ignore}
    return PixelCounts(
        images=images,
        read=read,
        values=values,
        pixels={name: pixels[label] for name, label in labels.items()},
        images_of_class={name: int(files[label]) for name, label in labels.items()},
        ignored=pixels[ignore] if 0 <= ignore < 256 else 0,
    )


def trained_labels(reduce_zero_label: bool, label_map: Mapping[int, int] | None) -> np.ndarray:
    """(256,) the label that mmseg's LoadAnnotations makes of each value of a file."""
    labels = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:
        labels[0] = 255
        labels -= 1
        labels[labels == 254] = 255
    reduced = labels.copy()
    for old, new in (label_map or {}).items():
        labels[reduced == old] = new
    return labels


_NO_BOX = (float('nan'),) * 4


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    names = dict.fromkeys([*first, *second])
    return {name: first.get(name, 0) + second.get(name, 0) for name in names}


def _pixels(value: Any) -> float:
    return float(value) if is_number(value) else float('nan')
