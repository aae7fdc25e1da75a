"""Maps drawn on the image they are of, side by side with titles."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitbackbones.plotting import font_for_images

from .placing import Place

# From dark to bright in even steps of brightness, which stays so in print: of matplotlib's inferno.
HEAT = np.array(
    [
        (0, 0, 4),
        (40, 11, 84),
        (101, 21, 110),
        (159, 42, 99),
        (212, 72, 66),
        (245, 125, 21),
        (250, 193, 39),
        (252, 255, 164),
    ],
    float,
)
#: Pixels of the longer side of a panel; small images are enlarged, but not more than twice.
PANEL = 480
TITLE = 22


@dataclass(frozen=True)
class View:
    """What a network sees of an image file, and where that is under the cells of its maps.

    Attributes:
        image: that part of the file, at the size in which it is drawn.
        zoom: of it, to that size.
        place: of the file in the network's input.
        canvas: height and width of the input that the cells cover.
    """

    image: Image.Image
    zoom: float
    place: Place
    canvas: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, place: Place, canvas: tuple[int, int]) -> View:
        """Of an image in RGB at its own size."""
        x1, y1, x2, y2 = place.seen
        zoom = min(2.0, PANEL / max(x2 - x1, y2 - y1))
        size = max(1, round((x2 - x1) * zoom)), max(1, round((y2 - y1) * zoom))
        drawn = image.resize(size, Image.Resampling.LANCZOS, box=place.seen)
        return cls(drawn, zoom, place, canvas)

    def inside(self, cells: Sequence[int]) -> tuple[slice, slice]:
        """The rows and columns of so many ``cells`` that show some of the image, not padding."""
        parts = []
        for axis, (count, whole) in enumerate(zip(cells, self.canvas, strict=True)):
            start, end = (self.place.at[i] * count / whole for i in (1 - axis, 3 - axis))
            first = min(int(start), count - 1)
            parts.append(slice(first, max(first + 1, min(math.ceil(end), count))))
        return parts[0], parts[1]

    def covered(self, values: Any) -> Any:
        """Of a map (..., H', W') the places that show some of the image, none of mere padding."""
        rows, columns = self.inside(values.shape[-2:])
        return values[..., rows, columns]

    def stretched(self, values: np.ndarray, *, smooth: bool) -> np.ndarray:
        """A map (H', W') of the whole input -> (h, w), as the image is drawn."""
        height, width = (
            count / whole for count, whole in zip(values.shape, self.canvas, strict=True)
        )
        x1, y1, x2, y2 = self.place.at
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        plane = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(plane.resize(self.image.size, how, box=box))

    def heat(self, values: np.ndarray, *, smooth: bool = True, most: float | None = None) -> Any:
        """The image in grey, the brighter and the more coloured the higher a map (H', W') is.

        Args:
            most: the value of the brightest colour; None takes the largest one.
        """
        seen = self.stretched(values, smooth=smooth)
        seen = np.clip(seen / max(most or float(seen.max()), 1e-12), 0, 1)
        grey = np.asarray(self.image.convert('L').convert('RGB'), float)
        strength = 0.25 + 0.6 * seen[..., None]
        return Image.fromarray(
            ((1 - strength) * 0.8 * grey + strength * _heat(seen)).astype(np.uint8)
        )

    def colours(self, values: np.ndarray) -> Image.Image:
        """A map (H', W', 3) of colours in [0, 1]."""
        planes = [self.stretched(values[..., i], smooth=False) for i in range(3)]
        return Image.fromarray((np.stack(planes, 2) * 255).astype(np.uint8))

    def scale(self, values: np.ndarray) -> Image.Image:
        """A map (H', W') alone, from the lowest to the highest value on the image."""
        seen, shown = self.stretched(values, smooth=False), self.covered(values)
        low, high = float(shown.min()), float(shown.max())
        return Image.fromarray(_heat((seen - low) / max(high - low, 1e-12)).astype(np.uint8))

    def only(self, kept: np.ndarray) -> Image.Image:
        """The image where a map (h', w') is true; what is false is dark."""
        seen = self.stretched(kept, smooth=False)[..., None]
        return Image.fromarray((np.asarray(self.image) * (0.2 + 0.8 * seen)).astype(np.uint8))

    def bars(self, values: np.ndarray) -> Image.Image:
        """Shares (C,) in [0, 1] as bars from the left to the right."""
        panel = Image.new('RGB', self.image.size, 'white')
        pen = ImageDraw.Draw(panel)
        width, height = panel.size
        for i, value in enumerate(values):
            left, right = (round(j * width / len(values)) for j in (i, i + 1))
            colour = tuple(int(c) for c in _heat(np.array(0.2 + 0.6 * value)))
            top = height - round(float(value) * height)
            if top < height:
                pen.rectangle((left, top, max(left, right - 1), height), fill=colour)
        return panel

    def boxed(self, panel: Image.Image, box: Sequence[float]) -> Image.Image:
        """A panel with a box (x1, y1, x2, y2) in pixels of the file."""
        panel = panel.copy()
        left, top = self.place.seen[:2]
        corners = zip(box, (left, top, left, top), strict=True)
        x1, y1, x2, y2 = ((float(side) - start) * self.zoom for side, start in corners)
        x2, y2 = max(x2, x1 + 4), max(y2, y1 + 4)
        pen = ImageDraw.Draw(panel)
        pen.rectangle((x1, y1, x2, y2), outline='black', width=4)
        pen.rectangle((x1 + 1, y1 + 1, x2 - 1, y2 - 1), outline='white', width=2)
        return panel


def _heat(values: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 3) in [0, 255]."""
    steps = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, steps, HEAT[:, i]) for i in range(3)], -1)


def side_by_side(panels: Sequence[tuple[str, Image.Image]]) -> bytes:
    """Panels with their titles above them, as PNG."""
    font = font_for_images(12)
    gap = 8
    widths = [max(image.width, int(font.getlength(title)) + 4) for title, image in panels]
    height = max(image.height for _, image in panels)
    sheet = Image.new('RGB', (sum(widths) + gap * (len(panels) + 1), TITLE + height + gap), 'white')
    pen = ImageDraw.Draw(sheet)
    left = gap
    for (title, image), width in zip(panels, widths, strict=True):
        pen.text((left, 3), title, fill='black', font=font)
        sheet.paste(image, (left, TITLE))
        left += width + gap
    file = io.BytesIO()
    sheet.save(file, format='PNG')
    return file.getvalue()
