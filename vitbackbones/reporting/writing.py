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


def write_report(
    out: Path, html: str, figures: Mapping[str, Any], plots: Mapping[str, bytes]
) -> None:
    """Write report.html, report.json, per_class.csv, per_image.csv and plots/*.png.

    Raises:
        UserError: a file cannot be written.
    """
    plain = without_nan(figures)
    files: dict[str, str | bytes] = {
        'per_class.csv': _csv(plain['classes']),
        'per_image.csv': _csv(plain['per_image']),
        **{f'plots/{name}.png': content for name, content in plots.items()},
        'report.json': json.dumps(plain, indent=1) + '\n',
        'report.html': html,
    }
    try:
        (out / 'plots').mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
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
