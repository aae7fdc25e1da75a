"""Rows that are written to one file at the end, and until then wait on the disk, not in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import IO


class Rows:
    """Rows in a file without a name: whatever happens to the run, nothing is left of it.

    Args:
        folder: an existing one, where the final file goes: there has to be room for it.
        between: what stands between two rows.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path, between: bytes) -> None:
        self._between = between
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (close closes it)

    def add(self, row: bytes) -> None:
        """Take in a row, or some that are joined already; all of it, or nothing.

        Raises:
            OSError: there is no room.
        """
        place = self._file.tell()
        try:
            self._file.write(self._between + row if place else row)
            self._file.flush()
        except OSError:
            self._file.seek(place)
            self._file.truncate()
            raise

    def copy_to(self, file: IO[bytes]) -> None:
        """Write all rows; more may follow."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)

    def close(self) -> None:
        self._file.close()
