"""The categories of an annotation file, found without reading the rest of it."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any


def coco_class_names(path: Path) -> list[str]:
    """Class names of a COCO annotation file, found without parsing its other 400 MB."""
    with path.open('rb') as file:
        encoding = json.detect_encoding(file.read(4))
        if encoding in ('utf-8', 'utf-8-sig') and path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                rows = _categories(data)
        else:  # somebody's export, not one of the large ones
            file.seek(0)
            rows = _categories(file.read().decode(encoding, 'replace').encode())
    return [str(row['name']) for row in rows or ()]


def _categories(data: mmap.mmap | bytes) -> list[dict[str, Any]] | None:
    for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', data):
        end = data.find(b']', match.end())
        while end >= 0:
            try:
                rows = json.loads(data[match.end() : end + 1])
            except ValueError:  # a bracket inside a category: read on to the next one
                end = data.find(b']', end + 1)
                continue
            if rows and all(isinstance(row, dict) and 'name' in row for row in rows):
                return rows
            break
    return None
