"""The worst images of a report, truth beside prediction, and what is wrong with each."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitbackbones.inference.drawing import labels_on

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


def worst(rows: Sequence[Mapping[str, Any]], key: str, most: int) -> list[int]:
    """Positions of the images with the most of ``key``, without those that have none."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i][key])
    return [i for i in order[:most] if rows[i][key] > 0]


def picture_of_detection(
    name: str, result: Detection, position: int, path: Path, classes: Sequence[str]
) -> Picture:
    """Truth and predictions of one image, coloured by what is wrong.

    Raises:
        OSError: the image cannot be read.
    """
    image = Image.open(path).convert('RGB')
    there = np.flatnonzero((result.truths.image == position) & ~result.truths.crowd)
    kept = np.flatnonzero(result.kept.image == position)
    errors = result.errors
    truth_colours = [
        BAD[-1] if errors.missed[i] else NEARLY if errors.unfound[i] else GOOD for i in there
    ]
    colours = [BAD[kind] if kind >= 0 else GOOD for kind in errors.kind[kept]]
    shown = classes if len(classes) > 1 else ['']  # a single name would only hide objects
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
        OSError: the image cannot be read.
    """
    image = Image.open(path).convert('RGB')
    if image.size != truth.shape[::-1]:
        image = image.resize(truth.shape[::-1])
    wrong = np.where((truth != found) & (truth != ignore), 0, 255)
    grey = image.convert('L').convert('RGB')
    panels = [
        _sized(image),
        _sized(labels_on(image, truth, palette)),
        _sized(labels_on(image, found, palette)),
        _sized(labels_on(grey, wrong, [WRONG], 0.8)),
    ]
    return Picture(name, panels, why)


def _with_objects(
    image: Image.Image,
    every: Objects,
    chosen: np.ndarray,
    words: Sequence[str],
    colours: Sequence[str],
) -> Image.Image:
    pixels = np.array(image)
    if every.mask is not None:
        from PIL import ImageColor
        from pycocotools import mask as coco_mask

        for i, colour in zip(chosen, colours, strict=True):
            inside = coco_mask.decode(every.mask[i]).astype(bool)
            pixels[inside] = 0.6 * pixels[inside] + 0.4 * np.array(ImageColor.getrgb(colour))
    zoom = WIDTH / image.width
    panel = _sized(Image.fromarray(pixels))
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(10)
    for i, colour in zip(chosen, colours, strict=True):
        x, y, w, h = (float(value) * zoom for value in every.box[i])
        pen.rectangle((x, y, x + w, y + h), outline=colour, width=2)
    for i, text, colour in zip(chosen, words, colours, strict=True):
        if not text:
            continue
        x, y = (float(value) * zoom for value in every.box[i, :2])
        area = pen.textbbox((max(x, 1), max(y - 11, 1)), text, font=font)
        pen.rectangle((area[0] - 1, area[1] - 1, area[2] + 1, area[3] + 1), fill=colour)
        pen.text((max(x, 1), max(y - 11, 1)), text, fill='white', font=font)
    return panel


def _sized(image: Image.Image) -> Image.Image:
    """An image as wide as a panel."""
    size = (WIDTH, max(1, round(image.height * WIDTH / image.width)))
    return image.resize(size, Image.Resampling.BICUBIC)


def beside(panels: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Panels of one size in rows of ``columns``."""
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = Image.new('RGB', size, 'white')
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return sheet


def contact_sheet(pictures: Sequence[Picture]) -> bytes:
    """All of them below one another, each with its name and why, as the content of a PNG file."""
    images = [beside(picture.panels) for picture in pictures]
    width = max(image.width for image in images)
    height = sum(image.height + 2 * LINE + 2 * GAP for image in images)
    sheet = Image.new('RGB', (width + 2 * GAP, height + GAP), 'white')
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = GAP
    for picture, image in zip(pictures, images, strict=True):
        pen.text((GAP, top), picture.name, fill='black', font=font)
        pen.text((GAP, top + LINE), picture.why, fill='#B00000', font=font)
        sheet.paste(image, (GAP, top + 2 * LINE))
        top += image.height + 2 * LINE + 2 * GAP
    file = io.BytesIO()
    sheet.save(file, 'PNG')
    return file.getvalue()
