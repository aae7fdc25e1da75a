"""The file of a whole model, run by ONNX Runtime: images in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vitbackbones.errors import UserError

from .card import Card
from .onnx import ExportError, open_session

Compute = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]


def is_onnx(name: str) -> bool:
    """Whether a name is that of an ONNX file, rather than of a config or a checkpoint."""
    return name.lower().endswith('.onnx')


class OnnxFile:
    """A whole model that `vitbackbones export --part model` wrote.

    Attributes:
        card: what the file says of itself.
    """

    def __init__(self, path: str | os.PathLike[str], compute: Compute | None = None) -> None:
        """Read it, to be computed by as many threads as torch has.

        Args:
            compute: another runtime's way from the input to the outputs.

        Raises:
            UserError: there is no such file, it is somebody else's, or ONNX Runtime is missing or
                too old for it.
        """
        if not Path(path).is_file():
            raise UserError(f'there is no file {path}')
        try:
            import onnxruntime
        except ImportError:
            raise UserError('onnxruntime is missing: pip install onnxruntime') from None
        try:
            session = open_session(path, threads=torch.get_num_threads())
        except ExportError as error:
            raise UserError(
                f'{path} cannot be read: it is no ONNX file, or onnxruntime '
                f'{onnxruntime.__version__} is too old for it ({_first_line(error)})'
            ) from error
        self.path = path
        self.card = Card.of_properties(session.get_modelmeta().custom_metadata_map, path)
        self._names = [output.name for output in session.get_outputs()]
        self._compute = compute or (lambda fed: session.run(None, {'image': fed}))

    def run(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The file's outputs by name.

        Where a file for one size has the image filled up, boxes may reach beyond it; those that
        have nothing of it are left out.

        Args:
            image: (H, W, 3) of B, G, R, of a size that :meth:`size_for` gives.

        Raises:
            UserError: the file does not take images of that size.
        """
        fed = self.input_of(image)
        try:
            outputs = self._compute(fed)
        except Exception as error:  # its own kinds, which derive from nothing else
            raise UserError(
                f'{self.path} cannot compute images of {image.shape[1]} x {image.shape[0]} pixels '
                f'({_first_line(error)})'
            ) from error
        found = dict(zip(self._names, outputs, strict=True))
        if self.card.dynamic or self.card.task == 'labels':
            return found
        within = found['boxes'].clip(0, [*image.shape[1::-1]] * 2)
        inside = (within[:, 2:] > within[:, :2]).all(1)
        return {name: values[inside] for name, values in found.items()}

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image is to be resized to."""
        card = self.card
        if card.dynamic:
            wide, high = card.scale or (width, height)
        else:
            high, wide = card.size
        if card.keep_ratio is False:
            return wide, high
        if card.dynamic:  # as mmcv's imrescale: a scale is for high images as for wide ones
            wide, high = sorted((wide, high), reverse=width >= height)
        factor = min(wide / width, high / height)
        return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)

    def input_of(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """An image as the file takes it; one for a single size is filled up with the mean.

        Args:
            image: (H, W, 3) of B, G, R.

        Raises:
            UserError: the file is for a single size, and the image is larger; or it is for any,
                and the image is too small.
        """
        card = self.card
        if card.dynamic and min(image.shape[:2]) < card.smallest:
            raise UserError(
                f'{self.path} takes images of {card.smallest} pixels and more on both sides, not '
                f'{image.shape[1]} x {image.shape[0]}'
            )
        if not card.dynamic:
            below, right = np.subtract(card.size, image.shape[:2]).tolist()
            if min(below, right) < 0:
                raise UserError(
                    f'{self.path} takes images of {card.size[1]} x {card.size[0]} pixels and '
                    f'smaller ones, not {image.shape[1]} x {image.shape[0]}: let the test pipeline '
                    f'resize to scale=({card.size[1]}, {card.size[0]}), or export without --static'
                )
            mean = np.clip(np.round(card.mean[::-1]), 0, 255).tolist()
            edge = cv2.BORDER_CONSTANT
            image = cv2.copyMakeBorder(image, 0, below, 0, right, edge, value=mean)
        array = image if card.channels == 'bgr' else image[..., ::-1]
        array = array if card.layout == 'hwc' else array.transpose(2, 0, 1)
        return np.ascontiguousarray(array[None], card.dtype)


def by_openvino(path: str | os.PathLike[str], threads: int) -> Compute:
    """How OpenVINO computes a file on a CPU, in single precision.

    Raises:
        UserError: OpenVINO is missing, or cannot read the file.
    """
    try:
        import openvino
    except ImportError:
        raise UserError('openvino is missing: pip install openvino') from None
    # Where a CPU has units for bfloat16, it would use them unasked.
    options = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': threads}
    try:
        compiled = openvino.compile_model(str(path), 'CPU', options)
    except RuntimeError as error:
        raise UserError(f'OpenVINO cannot read {path} ({_first_line(error)})') from error
    return lambda fed: list(compiled([fed]).values())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition('\n')[0][:300]
