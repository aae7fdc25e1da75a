"""Figures drawn without a display and without touching anybody's own matplotlib state."""

from __future__ import annotations

import io
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
