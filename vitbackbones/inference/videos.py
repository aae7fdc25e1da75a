"""The frames of a video, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vitbackbones.errors import UserError

# Containers without an index say how many frames there are by duration times rate.
_INEXACT = 0.02
_FEW = 2


class VideoError(Exception):
    """One sentence about a video that is not read to its end."""


def count_frames(path: Path) -> int | None:
    """How many frames a video says that it has; None if it does not say.

    Raises:
        UserError: it cannot be read as a video.
    """
    video = _opened(path)
    try:
        if not video.isOpened() or not video.grab():
            raise UserError(f'{path} cannot be read as a video')
        return _length(video)
    finally:
        video.release()


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames, (H, W, 3) of B, G, R.

    Raises:
        VideoError: there are fewer than the video says, after those that there are.
    """
    video = _opened(path)
    try:
        length = _length(video) or 0
        count = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            count += 1
            yield np.asarray(frame, np.uint8)
    finally:
        video.release()
    if not count:
        raise VideoError('it cannot be read as a video')
    if length - count > max(_FEW, _INEXACT * length):
        raise VideoError(f'the video breaks off after {count} of {length} frames')


def write_frame(path: Path, frame: NDArray[np.uint8]) -> None:
    """Write a frame as JPEG.

    Raises:
        OSError: it cannot be written.
    """
    there, data = cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _opened(path: Path) -> Any:
    # FFmpeg would print lines of its own for a file that is not right; ours is enough.
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    return cv2.VideoCapture(str(path))


def _length(video: Any) -> int | None:
    length = video.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(length) if 0 < length < 1e9 else None  # streams say anything
