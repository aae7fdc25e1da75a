"""The files of a report, each whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbackbones.errors import UserError
from vitbackbones.files import write
from vitbackbones.tables import comma_separated

#: The plot that not every report has.
WORST = 'worst_images'
#: All that a report may have.
PLOTS = (
    *('ap_by_class', 'ap_by_overlap', 'confusion', 'errors', 'f1_by_class', 'iou_by_class'),
    *('missed', 'precision_recall', 'threshold', WORST),
)


def write_tables(out: Path, figures: Mapping[str, Any]) -> None:
    """Write report.json, per_class.csv and per_image.csv; an earlier page and its plots go.

    Raises:
        UserError: a file cannot be written, or removed.
    """
    plain = without_nan(figures)
    files = {
        'per_class.csv': _csv(plain['classes']),
        'per_image.csv': _csv(plain['per_image']),
        'report.json': json.dumps(plain, indent=1) + '\n',
    }
    _write(out, files, gone=['report.html', *(f'plots/{name}.png' for name in PLOTS)])


def write_page(out: Path, html: str, plots: Mapping[str, bytes]) -> None:
    """Write report.html and plots/*.png.

    Raises:
        UserError: a file cannot be written.
    """
    files: dict[str, str | bytes] = {f'plots/{name}.png': plot for name, plot in plots.items()}
    _write(out, {**files, 'report.html': html})


def _write(out: Path, files: Mapping[str, str | bytes], gone: Sequence[str] = ()) -> None:
    """Take away what is to go, and write files."""
    try:
        for name in gone:
            (out / name).unlink(missing_ok=True)
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write(out / name, content)
    except OSError as error:
        raise UserError(f'--out-dir {out} cannot be written: {error.strerror}') from error


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of what is one value in each row; lists and curves are in report.json."""
    simple = (str, int, float, type(None))
    names = [name for name, value in (rows[0] if rows else {}).items() if isinstance(value, simple)]
    return comma_separated(names, ([row[name] for name in names] for row in rows))


def without_nan(value: Any) -> Any:
    """The same with None for what is not a number, of which JSON knows nothing."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return value
