"""Figures drawn without a display and without touching anybody's own matplotlib state."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any

# Told apart by the colour-blind as well, and by shape in print: Okabe and Ito's.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Any) -> bytes:
    """A figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format='png', facecolor='white')
    return file.getvalue()


def font_for_images(size: int) -> Any:
    """The font of the plots, which knows more than Latin letters, for Pillow."""
    from PIL import ImageFont

    return ImageFont.truetype(_font_file(), size)


def drawable(text: str) -> str:
    """A text with a question mark for each sign that the font does not have."""
    known = _signs()
    return ''.join(sign if ord(sign) in known else '?' for sign in text)


def drawable_names(classes: Sequence[str]) -> list[str]:
    """Names of classes as plots and pictures show them: those in other scripts as 'class N'.

    N is the label, counted from 0.
    """
    return [
        name if drawable(name) == name else f'class {label}' for label, name in enumerate(classes)
    ]


@functools.cache
def _font_file() -> str:
    from matplotlib.font_manager import findfont

    return findfont('DejaVu Sans')  # comes with matplotlib


@functools.cache
def _signs() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset(get_font(_font_file()).get_charmap())
