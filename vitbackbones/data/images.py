"""What is wrong with the file of an image or of a label map, by its header."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .findings import Finding

#: From this side on an image is worth a note.
LARGE = 10_000

_EXTENSIONS = {
    'JPEG': {'.jpg', '.jpeg', '.jpe', '.jfif'},
    'MPO': {'.jpg', '.jpeg', '.mpo'},
    'PNG': {'.png', '.apng'},
    'BMP': {'.bmp', '.dib'},
    'TIFF': {'.tif', '.tiff'},
    'WEBP': {'.webp'},
    'GIF': {'.gif'},
    'PPM': {'.ppm', '.pgm', '.pbm', '.pnm'},
    'JPEG2000': {'.jp2', '.j2k', '.jpx'},
}
_END = b'\xff\xd9'  # of a JPEG
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height


def check_image(path: str, size: tuple[int, int] | None = None) -> Iterator[Finding]:
    """What its header, and the end of a JPEG, say about an image.

    Args:
        size: the width and height that the annotations give.
    """
    broken = check_file(path)
    if broken:
        yield broken
        return
    try:
        image, turn = _header(path)
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        yield Finding('unreadable image', path, _reason(error))
        return
    width, height = image.size
    if turn in _SIDEWAYS:
        width, height = height, width
    if size is not None and size != (width, height):
        yield Finding(
            'another size', path, f'{width} x {height} pixels, {size[0]} x {size[1]} by annotations'
        )
    known = _EXTENSIONS.get(image.format or '')
    if known and Path(path).suffix.lower() not in known:
        yield Finding('wrong extension', path, f'a {image.format} named {Path(path).suffix}')
    mode = image.mode
    if mode == 'CMYK':
        yield Finding('CMYK', path)
    if mode in ('1', 'L', 'LA') or mode.startswith(('I', 'F')):
        yield Finding('grey', path, f'grey, mode {mode}')
    if mode.startswith(('I', 'F')) or _deep(path, image.format):
        yield Finding('16 bit', path)
    if mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        yield Finding('alpha', path)
    if turn != 1:
        yield Finding('EXIF rotation', path, f'EXIF orientation {turn}')
    if min(width, height) == 1:
        yield Finding('one pixel', path, f'{width} x {height} pixels')
    if max(width, height) >= LARGE:
        yield Finding('very large', path, f'{width} x {height} pixels')


def check_file(path: str) -> Finding | None:
    """Whether a file is there, holds anything, and is complete if it is a JPEG.

    Some versions of OpenCV decode what there is of a truncated JPEG and paint the rest grey.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(2)
            complete = start != b'\xff\xd8' or _complete(file)
    except FileNotFoundError:
        return Finding('missing file', path, 'there is no such file')
    except OSError as error:
        return Finding('unreadable image', path, error.strerror or str(error))
    if not start:
        return Finding('empty file', path, 'it is empty')
    if not complete:
        return Finding('truncated file', path, 'the end of this JPEG is missing')
    return None


def check_label_map(path: str, size: tuple[int, int] | None = None) -> Iterator[Finding]:
    """What its header says about a label map.

    Args:
        size: width and height of its image.
    """
    broken = check_file(path)
    if broken:
        yield broken
        return
    try:
        image, _ = _header(path)
        fits = image.mode in ('1', 'L', 'P') or _fits_8_bits(path, image.mode)
    except Exception as error:  # as above
        yield Finding('unreadable image', path, _reason(error))
        return
    if not fits:
        yield Finding(
            'not a label map', path, f'mode {image.mode}, must be one channel with values to 255'
        )
    elif size is not None and image.size != size:
        yield Finding(
            'label map of another size',
            path,
            f'{image.size[0]} x {image.size[1]} pixels, its image {size[0]} x {size[1]}',
        )


def wrong_labels(labels: np.ndarray, classes: int, ignore: int) -> str:
    """Values of a label map, as it is trained on, that are neither a class nor ``ignore``."""
    wrong = [int(v) for v in np.unique(labels) if not (0 <= v < classes or v == ignore)]
    if not wrong:
        return ''
    few = ', '.join(map(str, wrong[:5])) + (' ...' if len(wrong) > 5 else '')
    return f'labels {few} in training, but classes are 0 to {classes - 1}, and {ignore} is ignored'


def image_size(path: str) -> tuple[int, int] | None:
    """Width and height as training gets them, None if they cannot be read."""
    try:
        image, turn = _header(path)
    except Exception:  # reported by check_image
        return None
    width, height = image.size
    return (height, width) if turn in _SIDEWAYS else (width, height)


def _header(path: str) -> tuple[Image.Image, int]:
    """An image that is not decoded yet, and its EXIF orientation."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of large images and odd EXIF data
        with Image.open(path) as image:
            return image, image.getexif().get(_ORIENTATION, 1) or 1


def _complete(file: BinaryIO) -> bool:
    """Whether a JPEG's end marker follows its compressed data; thumbnails have their own."""
    file.seek(-2, os.SEEK_END)
    if file.read() == _END:
        return True
    file.seek(0)
    jpeg = file.read()  # cameras append things of their own
    at = 2
    while at + 4 <= len(jpeg):
        if jpeg[at] != 0xFF:
            return True  # no segment: let the decoder judge
        if jpeg[at + 1] == 0xFF:  # filling
            at += 1
            continue
        if jpeg[at + 1] == 0xDA:  # start of the compressed data, in which no marker can occur
            return jpeg.find(_END, at) >= 0
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], 'big')
    return False


def _deep(path: str, kind: str | None) -> bool:
    """Whether a PNG has 16 bits per channel, which PIL does not tell of colours."""
    if kind != 'PNG':
        return False
    with open(path, 'rb') as file:
        return file.read(25)[24:] == b'\x10'


def _fits_8_bits(path: str, mode: str) -> bool:
    """Whether a label map of more bits needs none of the upper ones, which mmseg cuts off."""
    if not mode.startswith('I'):
        return False  # colours stand for classes in no way that mmseg knows
    with Image.open(path) as image:
        values = np.asarray(image)
    return bool(values.min() >= 0 and values.max() <= 255)


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.partition('\n')[0]
