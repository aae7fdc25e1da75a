"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from vitbackbones.checkpoint import CheckpointError

# What file systems and folders that cannot be flushed say.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF}
PART = '.part'  # ends the name of a file that is being written


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``path`` so that its name always stands for whole content, the old or the new one.

    The content goes into another file of the same folder, reaches the disk, and only then gets the
    name. Killed at any moment, a process leaves ``path`` as it was, and at most a ``.part``.

    Raises:
        CheckpointError: it cannot be written, the disk being full, for one; ``path`` is as it was.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f'{path} ({len(data) / 1e6:.1f} MB) cannot be written: {error.strerror}; {free:.1f} MB '
            'are free there. What was saved before is intact: make room and go on with --resume'
        ) from error


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut, too, on file systems that can promise it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:  # the file itself is on the disk
        if error.errno not in CANNOT_SYNC:
            raise


class AtomicBackend(LocalBackend):
    """mmengine's access to local files, with :func:`write_atomically` for writing bytes."""

    name = 'vitbackbones.atomic'

    def put(self, obj: bytes, filepath: str | Path) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, obj)


register_backend(AtomicBackend.name, AtomicBackend, force=True)
