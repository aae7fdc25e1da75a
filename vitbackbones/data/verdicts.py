"""What is wrong with a dataset as a whole, though each of its rows is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .annotations import TOLERANCE
from .counts import OF_IMAGES, REASONS, Fate, ImageCounts, ObjectCounts, PixelCounts, Rows
from .findings import Finding
from .nodes import type_name

SHOWN = 5  # names in a sentence
ENOUGH = 10  # boxes that are no coincidence
_PIXEL_LOSSES = ('CrossEntropyLoss', 'OhemCrossEntropy')


def of_rows(file: str, rows: Rows, names: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with the annotations of a COCO file, taken together.

    Args:
        names: file names of its images.
    """
    yield from _wrong_boxes(file, rows)
    yield from _shared_files(file, names)


def of_objects(file: str, counts: ObjectCounts) -> Iterator[Finding]:
    """What there is not to learn, or to compare with, in the objects of a split."""
    if not any(counts.objects.values()):
        yield Finding('nothing left', file, _why_no_object(counts))
        return
    missing = [name for name, number in counts.objects.items() if not number]
    if missing:
        detail = f'no object of {_some(missing, len(counts.objects))}'
        yield Finding('class without objects', file, detail)
    ignored = counts.annotations_left_out.get(REASONS[Fate.RUN_LENGTHS])
    if ignored:
        yield Finding(
            'run-length masks',
            file,
            f'{ignored} objects have run-length masks, which LoadAnnotations(poly2mask=False) '
            'ignores together with their boxes: poly2mask=True reads them',
        )


def of_images(file: str, counts: ObjectCounts) -> Iterator[Finding]:
    """That a dataset among others has no image: mmengine cannot hold one without any."""
    if counts.images and not counts.images_used:
        yield Finding(
            'nothing left',
            file,
            f'no image is left of {counts.images}: {reasons(counts.images_left_out)}',
        )


def of_pixels(
    file: str, counts: PixelCounts, *, reduce_zero_label: bool, ignore: int, learns: bool
) -> Iterator[Finding]:
    """What there is not to learn, or to compare with, in the label maps of a split.

    Args:
        ignore: the label that stands for no class.
        learns: whether it is trained on.
    """
    if not counts.read or not counts.pixels:
        return
    maps = f'all {counts.read} label maps'
    if counts.read < counts.images:
        maps = f'the {counts.read} of {counts.images} label maps that were read'
    missing = [name for name, number in counts.pixels.items() if not number]
    present = [name for name in counts.pixels if name not in missing]
    cause = _why_no_pixel(counts, reduce_zero_label, ignore)
    if not present:
        yield Finding('nothing left', file, f'in {maps} every pixel is ignored{cause}')
    elif len(present) == 1 and missing and (cause or learns):
        detail = f'in {maps} every pixel is {present[0]!r} or ignored{cause}'
        yield Finding('nothing left', file, detail)
    elif missing:
        if missing != [[*counts.pixels][-1]]:
            cause = ''  # labels that are one too low leave the last class alone without pixels
        detail = f'in {maps} no pixel of {_some(missing, len(counts.pixels))}{cause}'
        yield Finding('class without pixels', file, detail)


def of_classes(file: str, counts: ImageCounts) -> Iterator[Finding]:
    """What there is not to learn, or to compare with, in the images of a classification."""
    missing = [name for name, number in counts.images.items() if not number]
    if missing and len(missing) < len(counts.images):
        detail = f'no image of {_some(missing, len(counts.images))}'
        yield Finding('class without images', file, detail)


def of_heads(model: Mapping[str, Any], file: str) -> Iterator[Finding]:
    """Segmentation heads whose loss is a softmax over a single class, which is always right."""
    for key in ('decode_head', 'auxiliary_head'):
        heads = model.get(key) or ()
        for head in [heads] if isinstance(heads, Mapping) else heads:
            losses = head.get('loss_decode') or dict(type='CrossEntropyLoss')
            losses = [losses] if isinstance(losses, Mapping) else losses
            softmax = all(
                type_name(loss) in _PIXEL_LOSSES and not loss.get('use_sigmoid') for loss in losses
            )
            if head.get('num_classes') == 1 and 'loss_cls' not in head and softmax:
                yield Finding(
                    'softmax over one class',
                    file,
                    f'model.{key} has num_classes=1: a softmax over one class is always 1, and its '
                    'loss 0; name the background as a class, too: num_classes=2 and '
                    "metainfo=dict(classes=('background', ...))",
                )


def _wrong_boxes(file: str, rows: Rows) -> Iterator[Finding]:
    """Boxes that are not x, y, width and height in pixels."""
    listed = rows.image >= 0
    boxes, sizes = rows.boxes[listed], rows.sizes[rows.image[listed]]
    real = (boxes[:, 2:] > 0).all(1) & (sizes > 1).all(1)
    first, second, sizes = boxes[real, :2], boxes[real, 2:], sizes[real]  # (N, 2) each
    if not len(first):
        return
    shares = ((first >= 0) & (first + second <= 1 + 1e-3)).all(1)
    if shares.mean() >= 0.5:
        yield Finding(
            'normalised boxes',
            file,
            f'{shares.sum()} of {len(shares)} boxes lie between 0 and 1, as shares of the image; '
            'bbox must be x, y, width and height in pixels: multiply by its width and height',
        )
        return
    beyond = (first + second > sizes + TOLERANCE).any(1)
    corners = ((first >= -TOLERANCE) & (second > first) & (second <= sizes + TOLERANCE)).all(1)
    if len(corners) < ENOUGH // 2 or beyond.mean() < 0.1 or corners.mean() < 0.99:
        return
    sure = len(corners) >= ENOUGH and beyond.mean() >= 0.25
    yield Finding(
        'boxes as corners' if sure else 'boxes like corners',
        file,
        f'{beyond.sum()} of {len(beyond)} boxes reach beyond their image, and {corners.sum()} lie '
        'inside when read as corners (x1, y1, x2, y2); bbox must be x, y, width and height',
    )


def _shared_files(file: str, names: Sequence[str]) -> Iterator[Finding]:
    """Images of different ids that are one file: each would be trained without the other's."""
    shared = {name: number for name, number in Counter(names).items() if number > 1}
    if not shared:
        return
    name, number = max(shared.items(), key=lambda item: item[1])
    if number == len(names):
        detail = f'all {number} images have the file_name {name!r}'
        yield Finding('one file for all images', file, detail)
    else:
        detail = f'{len(shared)} files stand for several images, {name!r} for {number} of them'
        yield Finding('one file for several images', file, detail)


def _why_no_object(counts: ObjectCounts) -> str:
    lost = counts.annotations_left_out
    if not counts.annotations:
        return f'it has no annotation of its {counts.images} images'
    if OF_IMAGES in lost:
        return (
            f'no image with an object is left of {counts.images}: {reasons(counts.images_left_out)}'
        )
    why = f'no object is left of {counts.annotations} annotations: {reasons(lost)}'
    if REASONS[Fate.RUN_LENGTHS] in lost:
        why += '; LoadAnnotations(poly2mask=True) reads them'
    if REASONS[Fate.UNKNOWN_IMAGE] in lost:
        why += '; image_id must equal the id of an image, and a text is not equal to a number'
    return why


def _why_no_pixel(counts: PixelCounts, reduce_zero_label: bool, ignore: int) -> str:
    """What in the files or options takes pixels away from a class, '' if nothing does."""
    values = np.flatnonzero(counts.values).tolist()
    if values == [0, 255] and len(counts.pixels) > 1 and ignore == 255:
        ignored = ', and reduce_zero_label=True ignores both' if reduce_zero_label else ''
        return (
            f'; the files hold the values 0 and 255 alone{ignored or ", and 255 is ignored"}: '
            'write the class index, 1 for 255' + (', and set it to False' if ignored else '')
        )
    if reduce_zero_label and counts.values[0]:
        return (
            '; reduce_zero_label=True ignores the value 0 of the files and takes 1 for the first '
            'class: set it to False if 0 is the first class'
        )
    return ''


def reasons(numbers: Mapping[str, int]) -> str:
    """Numbers with what they are of, in words."""
    return ', '.join(f'{number} {reason}' for reason, number in numbers.items())


def _some(missing: Sequence[str], classes: int) -> str:
    """The first few of the classes that are missing, and their number."""
    more = f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''
    return f'{len(missing)} of {classes} classes: {", ".join(missing[:SHOWN])}{more}'
