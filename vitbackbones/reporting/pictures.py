"""The worst images of a report, truth beside prediction, and what is wrong with each."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from vitbackbones.inference.coco import decoded
from vitbackbones.inference.drawing import enlarged, labels_on, marked, read_image
from vitbackbones.plotting import drawable, drawable_names, font_for_images

from .detection import Detection
from .kinds import KINDS, RIGHT
from .objects import Objects

#: Of one panel, in pixels.
WIDTH = 480
GOOD = '#00A050'
#: Of errors, in the order of KINDS; the last is of objects that are missed.
BAD = ('#E06000', '#0072B2', '#A040C0', '#5B6673', '#C00040', '#FF2020')
#: Of objects that a prediction of the wrong class or place is about.
NEARLY = '#B8A000'
WRONG = (230, 0, 60)
GAP, LINE = 8, 18


@dataclass(frozen=True)
class Picture:
    """One image: its name, panels of one size, and why it is here."""

    name: str
    panels: Sequence[Image.Image]
    why: str

    def files(self) -> list[bytes]:
        """The panels as the contents of JPEG files."""
        files = [io.BytesIO() for _ in self.panels]
        for panel, file in zip(self.panels, files, strict=True):
            panel.save(file, 'JPEG', quality=85)
        return [file.getvalue() for file in files]


class NotShownError(Exception):
    """Why an image cannot be shown, in words."""


def worst(rows: Sequence[Mapping[str, Any]], key: str, most: int) -> list[int]:
    """Positions of the images with the most of ``key``, without those that have none."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i][key])
    return [i for i in order[:most] if rows[i][key] > 0]


def picture_of_detection(
    name: str,
    result: Detection,
    position: int,
    path: Path,
    size: tuple[int, int],
    classes: Sequence[str],
) -> Picture:
    """Truth and predictions of one image, coloured by what is wrong.

    Args:
        size: width and height of the image by its annotations.

    Raises:
        NotShownError: the image cannot be read, or is of another size.
    """
    image = _read(path)
    if image.size != size:
        raise NotShownError(
            f'{path} has {image.width} x {image.height} pixels, {size[0]} x {size[1]} by its '
            'annotations'
        )
    there = np.flatnonzero((result.truths.image == position) & ~result.truths.crowd)
    kept = np.flatnonzero(result.kept.image == position)
    errors = result.errors
    truth_colours = [
        BAD[-1] if errors.missed[i] else NEARLY if errors.unfound[i] else GOOD for i in there
    ]
    colours = [BAD[kind] if kind >= 0 else GOOD for kind in errors.kind[kept]]
    # A single name would only hide objects.
    shown = drawable_names(classes) if len(classes) > 1 else ['']
    words = [
        f'{shown[result.kept.label[i]]} {result.kept.score[i]:.2f} '
        f'{KINDS[errors.kind[i]] if errors.kind[i] >= 0 else ""}'.strip()
        for i in kept
    ]
    names = [shown[label] for label in result.truths.label[there]]
    panels = [
        _with_objects(image, result.truths, there, names, truth_colours),
        _with_objects(image, result.kept, kept, words, colours),
    ]
    return Picture(name, panels, _why(result, there, kept, classes))


def _why(result: Detection, there: np.ndarray, kept: np.ndarray, classes: Sequence[str]) -> str:
    """What is wrong with an image, in words, the most frequent first."""
    errors, counts = result.errors, Counter[str]()
    labels: dict[str, Counter[str]] = {}
    for i in kept:
        if errors.kind[i] >= 0:
            labels.setdefault(KINDS[errors.kind[i]], Counter())[classes[result.kept.label[i]]] += 1
    for i in there:
        if errors.missed[i]:
            labels.setdefault('missed', Counter())[classes[result.truths.label[i]]] += 1
    for kind, found in labels.items():
        counts[kind] = found.total()
    parts = [
        f'{count} {kind} ({", ".join(f"{n} {name}" for name, n in labels[kind].most_common(3))})'
        for kind, count in counts.most_common()
    ]
    right = int((errors.kind[kept] == RIGHT).sum())
    return f'{", ".join(parts)}; {right} of {len(there)} found'


def picture_of_labels(
    name: str,
    path: Path,
    truth: np.ndarray,
    found: np.ndarray,
    palette: Any,
    ignore: int,
    why: str,
) -> Picture:
    """Image, truth, prediction, and the pixels that are wrong.

    Args:
        truth: label map (H, W), as ``found``.

    Raises:
        NotShownError: the image cannot be read.
    """
    image = _read(path)
    if image.size != truth.shape[::-1]:
        image = image.resize(truth.shape[::-1])
    wrong = np.where((truth != found) & (truth != ignore), 0, 255)
    grey = image.convert('L').convert('RGB')
    drawn = [
        image,
        labels_on(image, truth, palette),
        labels_on(image, found, palette),
        labels_on(grey, wrong, [WRONG], 0.8),
    ]
    return Picture(name, [enlarged(each, WIDTH / image.width) for each in drawn], why)


def _read(path: Path) -> Image.Image:
    try:
        return read_image(path)
    except OSError as error:
        raise NotShownError(str(error)) from error


def _with_objects(
    image: Image.Image,
    every: Objects,
    chosen: np.ndarray,
    words: Sequence[str],
    colours: Sequence[str],
) -> Image.Image:
    boxes = every.box[chosen]
    return marked(
        image,
        np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]],
        [ImageColor.getrgb(colour) for colour in colours],
        words,
        (decoded(every.mask[i]) for i in chosen if every.mask is not None),
        WIDTH / image.width,
    )


def beside(panels: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Panels of one size in rows of ``columns``."""
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = Image.new('RGB', size, 'white')
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return sheet


def contact_sheet(pictures: Sequence[Picture], classes: Sequence[str]) -> bytes:
    """All of them below one another, each with its name and why, as the content of a PNG file."""
    signs = dict(zip(classes, drawable_names(classes), strict=True))
    others = sorted((name for name in signs if signs[name] != name), key=len, reverse=True)
    words = []
    for picture in pictures:
        why = picture.why
        for name in others:  # the longest first: another may be a part of it
            why = why.replace(name, signs[name])
        words.append((drawable(picture.name), drawable(why)))
    images, font = [beside(picture.panels) for picture in pictures], font_for_images(11)
    longest = max(font.getlength(text) for texts in words for text in texts)
    width = max(round(longest), *(image.width for image in images))
    height = sum(image.height + 2 * LINE + 2 * GAP for image in images)
    sheet = Image.new('RGB', (width + 2 * GAP, height + GAP), 'white')
    pen, top = ImageDraw.Draw(sheet), GAP
    for (name, why), image in zip(words, images, strict=True):
        pen.text((GAP, top), name, fill='black', font=font)
        pen.text((GAP, top + LINE), why, fill='#B00000', font=font)
        sheet.paste(image, (GAP, top + 2 * LINE))
        top += image.height + 2 * LINE + 2 * GAP
    file = io.BytesIO()
    sheet.save(file, 'PNG')
    return file.getvalue()
