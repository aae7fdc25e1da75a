"""Results that are on the disk completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a new file, which becomes ``path`` when the block ends without an exception.

    After an exception, or if the machine stops in between, ``path`` is as it was. Two processes may
    write the same file: each has a new one of its own.

    Raises:
        OSError: the file cannot be brought to the disk or renamed.
    """
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        yield part
        with part.open('rb') as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file as a whole, see :func:`replacing`.

    Raises:
        OSError: it cannot be written; ``path`` is as it was.
    """
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
