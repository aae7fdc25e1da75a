"""Looking at many files of a user's: headers of images, contents, or what a format wants."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeVar

from vitbackbones.data.images import check_file, image_size
from vitbackbones.errors import UserError
from vitbackbones.progress import progress_bar

T = TypeVar('T')
R = TypeVar('R')

FEW = 256  # files that are read sooner than a process is started
_END = 4096  # bytes that are read at either end of a file


class Seen(NamedTuple):
    """What the file of an image is.

    Attributes:
        size: width and height as mmcv loads it; None if it cannot be read.
        digest: of its length and both ends: files of equal content have the same, others may.
        problem: why it cannot be read.
    """

    size: tuple[int, int] | None
    digest: bytes = b''
    problem: str = ''


def over_files(look: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    """``look`` at each, in processes where there are many, with a progress bar.

    Raises:
        UserError: ``look`` does, or a process was killed.
    """
    if len(items) <= FEW:
        return [look(item) for item in items]
    jobs = min(8, os.cpu_count() or 1)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context('fork')) as pool:
        results = pool.map(
            look, items, chunksize=64
        )  # starts the processes, before the bar a thread
        try:
            with progress_bar() as bar:
                return list(bar.track(results, total=len(items), description=title))
        except BrokenProcessPool as error:
            raise UserError(
                f'a process that read {title} was killed: is there enough memory?'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def look_at_image(path: str) -> Seen:
    """Its size by its header, and its digest."""
    broken = check_file(path)
    if broken:
        return Seen(None, problem=broken.detail)
    size = image_size(path)
    return Seen(size, _ends(path), '' if size else 'no image that can be read')


def look_at_images(paths: Sequence[str]) -> list[Seen]:
    """As :func:`look_at_image`, all of them."""
    return over_files(look_at_image, paths, 'images')


def whole_digest(path: str) -> bytes:
    """Of all of a file."""
    with open(path, 'rb') as file:
        return _digest(iter(lambda: file.read(1 << 20), b''))


def _ends(path: str) -> bytes:
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        ends = file.read(_END)
        file.seek(max(size - _END, 0))
        return _digest((size.to_bytes(8, 'big'), ends, file.read(_END)))


def _digest(parts: Iterable[bytes]) -> bytes:
    result = hashlib.blake2b(digest_size=16)
    for part in parts:
        result.update(part)
    return result.digest()
