"""Networks as ONNX, and what ONNX Runtime computes from them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitbackbones.files import replacing

from .fuse import fuse

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')

#: How far outputs may be from the model's, as a share of their largest value.
TOLERANCE = 1e-4

#: Of the operators, unless another is asked for, and of the file's form: ONNX Runtime reads both
#: from 1.15 on, the oldest that was tried.
OPSET, IR_VERSION = 18, 8

#: The last one that torch writes.
NEWEST_OPSET = 23

#: No side of an image is longer, nor has a batch more images.
LARGEST = 1 << 20

#: Height and width that a program for any size is traced with, at least. In smaller images there
#: is one window where there are several in larger ones, and torch takes a length of 1 for fixed.
TRACED = 512


class ExportError(RuntimeError):
    """A network that has no program in ONNX, or one that computes something else."""


def export_onnx(
    model: nn.Module,
    images: Sequence[Tensor],
    path: Path,
    *,
    dynamic: bool = False,
    opset: int = OPSET,
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
        write_onnx(fuse(model), images[0], part, dynamic=dynamic, opset=opset)
        worst = difference(model, part, *images)
        if not worst <= TOLERANCE:  # nor is nan
            raise ExportError(
                f'ONNX Runtime computes something else: outputs differ by {worst:.1e} of their '
                f'largest value, more than {TOLERANCE}'
            )
    return worst


@torch.no_grad()
def write_onnx(
    model: nn.Module,
    image: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic: bool = False,
    opset: int = OPSET,
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
    names = [f'map{i}' for i in range(count)]
    free = {0: 'batch', 2: 'height', 3: 'width'} if dynamic else None
    write_program(model, image, path, names, free=free, opset=opset)


@torch.no_grad()
def write_program(
    model: nn.Module,
    image: Tensor,
    path: str | os.PathLike[str],
    outputs: Sequence[str],
    *,
    free: Mapping[int, str] | None,
    opset: int,
    table: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    properties: Mapping[str, str] | None = None,
) -> None:
    """Write a module with one input, ``image``, in operators of the standard alone.

    Args:
        outputs: their names.
        free: axes of the image that may have any length, and their names; it is traced with a
            height and a width of TRACED at least then.
        table: what stands in the file for operators that torch does not have.
        properties: metadata of the model.

    Raises:
        ExportError: as :func:`write_onnx`.
        OSError: the file cannot be written.
    """
    if free:
        sides = {axis for axis, name in free.items() if name != 'batch'}
        shape = [max(n, TRACED) if axis in sides else n for axis, n in enumerate(image.shape)]
        image = image.new_zeros(shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (image,),
                dynamo=True,
                dynamic_shapes=(dict(free),) if free else None,
                input_names=['image'],
                output_names=list(outputs),
                opset_version=opset,
                custom_translation_table=dict(table) if table else None,
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
    for symbol, values in program.exported_program.range_constraints.items():
        counted = str(symbol).startswith('u')  # how many boxes stay: bounded by their rule
        if free and not counted and values.upper < LARGEST:
            raise ExportError(f'the program would serve lengths up to {values.upper} alone')
    _tidy(program.model, properties or {})
    program.save(path, external_data=False)


def _tidy(model: Any, properties: Mapping[str, str]) -> None:
    """Leave out where each node came from, so that runtimes of before that was thought of read it.

    Raises:
        ExportError: there is an operator that is none of the standard.
    """
    model.metadata_props.clear()
    model.metadata_props.update(properties)
    model.ir_version = IR_VERSION
    foreign = {node.domain for node in model.graph.all_nodes()} - {''}
    if foreign or model.functions:
        names = sorted([*foreign, *(function.name for function in model.functions.values())])
        raise ExportError(f'it has operators that are not of the standard: {", ".join(names)}')
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def open_session(path: str | os.PathLike[str], threads: int = 0) -> Any:
    """A file as ONNX Runtime computes it on a CPU.

    Args:
        threads: to compute with; 0 for one on each core.

    Raises:
        ExportError: it cannot read the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is in its exceptions
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its own kinds, which derive from nothing else
        raise ExportError(f'ONNX Runtime cannot read it ({error})') from error


Run = Callable[[Tensor], list[Tensor]]


def open_file(path: str | os.PathLike[str]) -> Run:
    """What ONNX Runtime, on a CPU, makes of an image by a file.

    Raises:
        ExportError: it cannot read the file; what is returned raises it for an image that it cannot
            compute.
    """
    session = open_session(path)

    def run(image: Tensor) -> list[Tensor]:
        try:
            return [torch.from_numpy(x) for x in session.run(None, {'image': image.numpy()})]
        except Exception as error:
            shape = tuple(image.shape)
            raise ExportError(f'ONNX Runtime cannot compute {shape} ({error})') from error

    return run


@torch.no_grad()
def difference(model: nn.Module, path: str | os.PathLike[str], *images: Tensor) -> float:
    """How far ONNX Runtime is from ``model`` at most, as a share of the largest value of a map.

    Raises:
        ExportError: it cannot read the file or compute an image, or its maps have other shapes.
    """
    run = open_file(path)
    worst = []
    for image in images:
        found = run(image)
        outputs = model(image)
        wanted = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if [x.shape for x in found] != [x.shape for x in wanted]:
            shapes = [[tuple(x.shape) for x in maps] for maps in (found, wanted)]
            shape = tuple(image.shape)
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
