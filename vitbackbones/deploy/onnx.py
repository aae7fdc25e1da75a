"""Networks as ONNX, and what ONNX Runtime computes from them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vitbackbones.files import replacing

from .fuse import fuse

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')

#: How far outputs may be from the model's, as a share of their largest value.
TOLERANCE = 1e-4

#: No side of an image is longer, nor has a batch more images.
LARGEST = 1 << 20


class ExportError(RuntimeError):
    """A network that has no program in ONNX, or one that computes something else."""


def export_onnx(
    model: nn.Module, images: Sequence[Tensor], path: Path, *, dynamic: bool = False
) -> float:
    """Write ``model``, fused, if ONNX Runtime computes the same of all ``images`` (B, C, H, W).

    Args:
        images: the first is what the program is traced with, see :func:`write_onnx`.

    Returns:
        How far outputs are from the model's at most, as a share of their largest value.

    Raises:
        ExportError: there is no such program, or it computes something else; nothing is written.
        OSError: the file cannot be written.
    """
    with replacing(path) as part:
        write_onnx(fuse(model), images[0], part, dynamic=dynamic)
        worst = difference(model, part, *images)
        if not worst <= TOLERANCE:  # nor is nan
            raise ExportError(
                f'ONNX Runtime computes something else: outputs differ by {worst:.1e} of their '
                f'largest value, more than {TOLERANCE}'
            )
    return worst


@torch.no_grad()
def write_onnx(
    model: nn.Module, image: Tensor, path: str | os.PathLike[str], *, dynamic: bool = False
) -> None:
    """Write what ``model``, in evaluation, makes of an image (B, C, H, W): a tensor or a tuple.

    The file's input is ``image``, its outputs are ``map0``, ``map1`` and so on. With ``dynamic`` it
    takes any batch, height and width, otherwise those of ``image``, which is what the program is
    traced with. torch takes lengths of 1 for fixed: with ``dynamic``, let B and the sides of the
    coarsest map be at least 2.

    Raises:
        ExportError: an operation has no counterpart in ONNX, or there is no one program for all
            sizes; nothing is written then.
        OSError: the file cannot be written.
    """
    outputs = model(image)
    count = 1 if isinstance(outputs, Tensor) else len(outputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},) if dynamic else None,
                input_names=['image'],
                output_names=[f'map{i}' for i in range(count)],
                verbose=False,
            )
    except Exception as error:  # of many kinds, from torch.export and the translation to ONNX
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition('\n')[0]
        raise ExportError(f'{type(cause).__name__}: {reason}') from error
    assert program is not None  # as without dynamo
    assert program.exported_program is not None
    # Where the program branched by a size, torch keeps the traced branch and bounds the size.
    for values in program.exported_program.range_constraints.values():
        if dynamic and values.upper < LARGEST:
            raise ExportError(f'the program would serve lengths up to {values.upper} alone')
    program.save(path, external_data=False)


@torch.no_grad()
def difference(model: nn.Module, path: str | os.PathLike[str], *images: Tensor) -> float:
    """How far ONNX Runtime is from ``model`` at most, as a share of the largest value of a map.

    Raises:
        ExportError: it cannot read the file or compute an image, or its maps have other shapes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is in its exceptions
    worst = []
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its own kinds, which derive from nothing else
        raise ExportError(f'ONNX Runtime cannot read it ({error})') from error
    for image in images:
        shape = tuple(image.shape)
        try:
            found = [torch.from_numpy(map_) for map_ in session.run(None, {'image': image.numpy()})]
        except Exception as error:
            raise ExportError(f'ONNX Runtime cannot compute {shape} ({error})') from error
        outputs = model(image)
        wanted = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if [x.shape for x in found] != [x.shape for x in wanted]:
            shapes = [[tuple(x.shape) for x in maps] for maps in (found, wanted)]
            raise ExportError(f'of {shape} ONNX Runtime makes {shapes[0]}, the model {shapes[1]}')
        worst += [(x - y).abs().max() / y.abs().max() for x, y in zip(found, wanted, strict=True)]
    return float(torch.stack(worst).max())  # nan if one of them is


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter has to say to its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
