"""The images of the demo data: a few drawn objects in front of a textured background.

Everything is drawn by formula from a random generator. An object is a function of coordinates
(u, v), right and down, in which it fills about the square from -1 to 1; it says which points are
its own and what colour they have. It is sampled three times per pixel in each direction: the mask
of an object is the pixels that it covers by more than half, and its edges are smooth.

Shapes: H x W image, h x w window of a single object.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

Array = np.ndarray
Colour = Sequence[float]
Painter = Callable[[Array, Array, Generator], tuple[Array, Array]]

SAMPLES = 3  # per pixel and direction
EXTENT = (30, 100)  # of an object's longer side, pixels
MIN_VISIBLE = 0.5  # of an object's area
MIN_PIXELS = 64


@dataclass(frozen=True)
class Kind:
    """One kind of object: its class names, its painter and how far it may tilt, in radians."""

    coco: str
    ade20k: str
    paint: Painter
    tilt: float


@dataclass(frozen=True)
class Sprite:
    """An object in its window: colour (h, w, 3) 0..255 and coverage (h, w) 0..1 of each pixel.

    ``top`` and ``left`` place the window in the image, which it may overhang.
    """

    rgb: Array
    coverage: Array
    top: int
    left: int

    @property
    def mask(self) -> Array:
        return self.coverage > 0.5

    def within(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part that lies in the image: where in the image, and where in the window."""
        h, w = self.coverage.shape
        y0, y1 = max(self.top, 0), min(self.top + h, height)
        x0, x1 = max(self.left, 0), min(self.left + w, width)
        inside = slice(y0 - self.top, y1 - self.top), slice(x0 - self.left, x1 - self.left)
        return (slice(y0, y1), slice(x0, x1)), inside

    def draw(self, image: Array) -> None:
        """Lay the object over a float image (H, W, 3), in place."""
        place, inside = self.within(*image.shape[:2])
        alpha = self.coverage[inside][..., None]
        image[place] += alpha * (self.rgb[inside] - image[place])


@dataclass(frozen=True)
class Scene:
    """An image and what is known of it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        kinds: the kind of each object, from back to front.
        objects: (H, W) index into ``kinds`` of the object seen at a pixel, -1 for the background.
        background: (H, W) ADE20K class names of what is behind the objects.
    """

    image: Array
    kinds: tuple[Kind, ...]
    objects: Array
    background: Array


def make_scene(rng: Generator, height: int, width: int) -> Scene:
    """A random scene with two to five objects, each at least ``MIN_VISIBLE`` visible."""
    image, background = _background(rng, height, width)
    kinds: list[Kind] = []
    areas: list[int] = []
    objects = np.full((height, width), -1, dtype=np.int64)
    wanted = int(rng.integers(2, 6))
    for _ in range(10 * wanted):
        kind = KINDS[rng.integers(len(KINDS))]
        sprite = make_sprite(kind, rng, height, width)
        place, inside = sprite.within(height, width)
        candidate = objects.copy()
        candidate[place][sprite.mask[inside]] = len(kinds)
        area = int(sprite.mask.sum())
        visible = np.bincount(candidate[candidate >= 0], minlength=len(kinds) + 1)
        least = np.maximum(MIN_VISIBLE * np.array([*areas, area]), MIN_PIXELS)
        if np.all(visible >= least):  # neither hidden itself nor hiding an earlier object
            objects = candidate
            kinds.append(kind)
            areas.append(area)
            sprite.draw(image)
        if len(kinds) == wanted:
            break
    image += rng.normal(0, 4, image.shape)  # a camera's noise
    return Scene(image.clip(0, 255).astype(np.uint8), tuple(kinds), objects, background)


def make_sprite(kind: Kind, rng: Generator, height: int, width: int) -> Sprite:
    """A random object of a kind, its centre somewhere in an H x W image."""
    largest = min(EXTENT[1], 0.7 * min(height, width))
    radius = 0.5 * np.exp(rng.uniform(np.log(EXTENT[0]), np.log(largest)))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = rng.uniform(-kind.tilt, kind.tilt)
    y, x = rng.uniform(0.07, 0.93, 2) * (height, width)

    reach = int(np.ceil(1.5 * radius))  # of a corner of the square, stretched
    top, left = int(y) - reach, int(x) - reach
    steps = (np.arange((2 * reach + 1) * SAMPLES) + 0.5) / SAMPLES
    dy, dx = np.meshgrid(steps + top - y, steps + left - x, indexing='ij')
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radius * max(stretch, 1)
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / radius * max(1 / stretch, 1)
    rgb, mask = kind.paint(u, v, rng)
    rgb = rgb * rng.uniform(0.8, 1.1)  # lighting

    count = _bin(mask[..., None].astype(float))  # (h, w, 1) samples covered
    rgb = _bin(rgb * mask[..., None]) / np.maximum(count, 1)
    return Sprite(rgb.clip(0, 255), count[..., 0] / SAMPLES**2, top, left)


def _bin(samples: Array) -> Array:
    """Sum of the samples of each pixel: (h * SAMPLES, w * SAMPLES, C) -> (h, w, C)."""
    n = SAMPLES
    return np.add.reduce([samples[i::n, j::n] for i in range(n) for j in range(n)])


# ------------------------------------------------------------------------------- objects


def _colour(
    rng: Generator,
    hue: tuple[float, float] = (0, 1),
    saturation: tuple[float, float] = (0.6, 1),
    value: tuple[float, float] = (0.6, 1),
) -> Array:
    """A random RGB colour, 0..255; hue 0 is red, 1/3 green, 2/3 blue."""
    hsv = rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value)
    return 255 * np.array(colorsys.hsv_to_rgb(*hsv))


def _paint(base: Colour | Array, *layers: tuple[Array, Colour | Array]) -> Array:
    """Colours of all points: ``base``, and over it each layer's colour where its mask holds."""
    rgb = np.empty((*layers[0][0].shape, 3))
    rgb[:] = base
    for mask, colour in layers:
        rgb[mask] = colour
    return rgb


def _ball(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A disc, lit from the upper left, with the seams of a basketball."""
    curve = abs(abs(u) - 0.45 - 0.45 * v**2) < 0.07
    seams = (abs(u) < 0.06) | (abs(v) < 0.06) | curve
    rgb = _paint(_colour(rng, hue=(0.04, 0.2), value=(0.8, 1)), (seams, (40, 30, 30)))
    light = 1.05 - 0.45 * ((u + 0.4) ** 2 + (v + 0.4) ** 2)
    return rgb * light.clip(0.4)[..., None], u**2 + v**2 <= 1


def _stop_sign(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A red octagon with a white rim and a word's worth of white strokes."""
    size = np.maximum(np.maximum(abs(u), abs(v)), (abs(u) + abs(v)) / np.sqrt(2))
    letters = (abs(v) < 0.24) & (abs(u) < 0.64) & ((u * 3.1 + 10) % 1 < 0.62)
    red = _colour(rng, hue=(-0.02, 0.01), saturation=(0.85, 1), value=(0.65, 0.9))
    return _paint(red, (size > 0.84, (240, 240, 240)), (letters, (240, 240, 240))), size <= 0.97


def _traffic_light(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A dark upright box with three lamps, one of which is lit."""
    lit = rng.integers(3)
    lamps = []
    for i, colour in enumerate(((255, 40, 30), (255, 190, 30), (50, 240, 110))):
        lamp = u**2 + (v - 0.62 * (i - 1)) ** 2 <= 0.26**2
        lamps.append((lamp, np.array(colour) * (1 if i == lit else 0.35)))
    box = (abs(u) <= 0.42) & (abs(v) <= 1) & (abs(u) + abs(v) <= 1.3)
    return _paint(_colour(rng, saturation=(0, 0.3), value=(0.12, 0.25)), *lamps), box


def _kite(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A rhombus of two colours, quarter by quarter, with a waving tail."""
    cross = -0.4
    half = 0.52 * np.where(v < cross, (v + 1) / (cross + 1), (0.45 - v) / (0.45 - cross))
    sail = abs(u) <= half
    tail = (v > 0.4) & (v <= 1) & (abs(u - 0.16 * np.sin(11 * (v - 0.4))) < 0.08)
    first, second = _colour(rng, value=(0.85, 1)), _colour(rng, value=(0.85, 1))
    quarter = (u > 0) ^ (v > cross)
    return _paint(first, (quarter, second), (tail & ~sail, 0.7 * second)), sail | tail


def _donut(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A ring of dough with icing and sprinkles; the background shows through its hole."""
    r = np.hypot(u, v)
    icing = (abs(r - 0.69) * 2.2 < 0.5) & (r + 0.04 * np.sin(5 * np.arctan2(v, u)) < 0.9)
    layers: list[tuple[Array, Colour | Array]] = [
        (icing, _colour(rng, hue=(0.85, 1.06), saturation=(0.2, 0.7), value=(0.5, 1)))
    ]
    for angle in rng.uniform(0, 2 * np.pi, 14):
        distance = rng.uniform(0.52, 0.84)
        du, dv = u - distance * np.cos(angle), v - distance * np.sin(angle)
        layers.append((du**2 + dv**2 < 0.065**2, _colour(rng, value=(0.9, 1))))
    return _paint((205, 150, 85), *layers), (r >= 0.36) & (r <= 1)


def _clock(u: Array, v: Array, rng: Generator) -> tuple[Array, Array]:
    """A white face with a coloured rim, twelve marks and two hands."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    marks = (r > 0.66) & (abs((angle * 6 / np.pi + 0.5) % 1 - 0.5) < 0.17)
    layers: list[tuple[Array, Colour | Array]] = [(marks, (50, 50, 50))]
    for length, width in ((0.62, 0.06), (0.42, 0.09)):
        direction = rng.uniform(0, 2 * np.pi)
        along = u * np.cos(direction) + v * np.sin(direction)
        across = v * np.cos(direction) - u * np.sin(direction)
        hand = (along > -0.08) & (along < length) & (abs(across) < width)
        layers.append((hand, (20, 20, 20)))
    layers.append((r > 0.84, _colour(rng, saturation=(0.1, 0.9), value=(0.2, 0.6))))
    return _paint((245, 243, 232), *layers), r <= 1


KINDS = (
    Kind('traffic light', 'traffic light', _traffic_light, 0.3),
    Kind('stop sign', 'signboard', _stop_sign, 0.3),
    Kind('sports ball', 'ball', _ball, np.pi),
    Kind('kite', 'plaything', _kite, 1.2),
    Kind('donut', 'food', _donut, np.pi),
    Kind('clock', 'clock', _clock, 0.2),
)


# --------------------------------------------------------------------------- backgrounds


def _noise(rng: Generator, height: int, width: int, cell: float, aspect: float = 1) -> Array:
    """Smooth noise (H, W, 1) of about unit size; blobs ``cell`` high, ``aspect`` times as wide."""
    grid = max(2, round(height / cell)), max(2, round(width / cell / aspect))
    coarse = Image.fromarray(rng.normal(size=grid).astype(np.float32))
    smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=float)[..., None]


def _wall(rng: Generator, y: Array, x: Array) -> Array:
    """Pale plaster, painted in stripes or laid in bricks."""
    h, w = y.shape
    rgb = _colour(rng, saturation=(0.08, 0.35), value=(0.7, 0.92)) + 4 * _noise(rng, h, w, 20)
    step = rng.uniform(12, 28)
    if rng.random() < 0.5:
        pattern = (x / step) % 1 < 0.3
    else:
        row = np.floor(2 * y / step)
        pattern = ((2 * y / step) % 1 < 0.14) | ((x / step + row / 2) % 1 < 0.07)
    return rgb * np.where(pattern, rng.uniform(0.82, 0.94), 1)[..., None]


def _floor(rng: Generator, y: Array, x: Array) -> Array:
    """Brown boards with grain."""
    h, w = y.shape
    board = y / rng.uniform(8, 16)
    shade = rng.uniform(0.8, 1.1, 64)[board.astype(int) % 64][..., None]
    joint = (board % 1 < 0.1)[..., None]
    rgb = _colour(rng, hue=(0.04, 0.1), saturation=(0.35, 0.6), value=(0.45, 0.75))
    return rgb * shade * np.where(joint, 0.75, 1) + 7 * _noise(rng, h, w, 2, aspect=8)


def _sky(rng: Generator, y: Array, x: Array) -> Array:
    """Blue, paler towards the horizon, with clouds."""
    h, w = y.shape
    blue = _colour(rng, hue=(0.54, 0.63), saturation=(0.35, 0.7), value=(0.75, 1))
    down = (y / h)[..., None]
    rgb = blue + (225 - blue) * 0.6 * down
    cloud = (0.5 * _noise(rng, h, w, 22, aspect=2) + 0.25 * _noise(rng, h, w, 9)).clip(0, 0.8)
    return rgb + (248 - rgb) * cloud


def _grass(rng: Generator, y: Array, x: Array) -> Array:
    """Green blades over lighter and darker patches."""
    h, w = y.shape
    green = _colour(rng, hue=(0.22, 0.36), saturation=(0.45, 0.75), value=(0.35, 0.65))
    blades = _noise(rng, h, w, 3, aspect=0.4)
    return green * (1 + 0.12 * _noise(rng, h, w, 25) + 0.14 * blades)


def _water(rng: Generator, y: Array, x: Array) -> Array:
    """Blue-green ripples, longer towards the viewer."""
    h, w = y.shape
    blue = _colour(rng, hue=(0.47, 0.6), saturation=(0.5, 0.85), value=(0.35, 0.65))
    bend = 1.5 * _noise(rng, h, w, 16, aspect=2)[..., 0]
    ripples = np.sin(14 * np.sqrt(y + 4) + bend + 0.03 * x)
    return blue * (1 + 0.14 * ripples)[..., None] + 8 * _noise(rng, h, w, 4, aspect=4)


def _road(rng: Generator, y: Array, x: Array) -> Array:
    """Grey speckled asphalt."""
    h, w = y.shape
    grey = _colour(rng, saturation=(0, 0.08), value=(0.3, 0.5))
    return grey * (1 + 0.06 * _noise(rng, h, w, 30)) + rng.normal(0, 9, (h, w, 1))


BACKGROUNDS = {
    'wall': _wall,
    'floor': _floor,
    'sky': _sky,
    'grass': _grass,
    'water': _water,
    'road': _road,
}
SETTINGS = (('wall', 'floor'), ('sky', 'grass'), ('sky', 'water'), ('sky', 'road'))


def _background(rng: Generator, height: int, width: int) -> tuple[Array, Array]:
    """Two textures, one above a slightly uneven horizon and one below it.

    Returns the image (H, W, 3) as floats and the class name of each pixel (H, W).
    """
    above, below = SETTINGS[rng.integers(len(SETTINGS))]
    y, x = np.mgrid[:height, :width].astype(float)
    horizon = rng.uniform(0.3, 0.75) * height + rng.uniform(-0.1, 0.1) * (x - width / 2)
    if below == 'grass':  # hills
        horizon = horizon + 4 * np.sin(x / rng.uniform(12, 30) + rng.uniform(0, 6))
    lower = y >= horizon
    image = np.where(lower[..., None], BACKGROUNDS[below](rng, y, x), BACKGROUNDS[above](rng, y, x))
    return image, np.where(lower, below, above)
