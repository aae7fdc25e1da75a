"""Whole models in fewer bits: half precision, and eight bits for what the layers compute.

Boxes are not rounded: what comes after the last layers stays in single precision, and so do these
layers in eight bits.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cv2
import numpy as np

from vitbackbones.errors import UserError
from vitbackbones.files import replacing

from .card import KEY, Card
from .flow import Flow, drop_unused, fold_weights
from .onnx_file import OnnxFile

#: What half precision is too coarse for: sums over many values, powers, and places of boxes.
SINGLE = {
    *('LayerNormalization', 'InstanceNormalization', 'GroupNormalization', 'Softmax', 'RoiAlign'),
    *('ReduceMean', 'ReduceSum', 'ReduceL2', 'GlobalAveragePool', 'Exp', 'Log', 'Pow', 'Sqrt'),
}

#: From so many numbers on, what stays in single precision lies in the file in half of it.
LARGE = 4096

#: As many images are looked at for the ranges of values.
CALIBRATED = 64


def write_half(source: Path, target: Path) -> None:
    """Write a file of a whole model in half precision.

    Normalisations, softmax and all that comes after the last layers stay in single precision.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    import onnx

    model = onnx.load(source)
    fold_weights(model)
    _halve(model, Flow(model))
    _save(model, Card.of_file(source), target, 'half')


def _halve(model: Any, flow: Flow) -> None:
    """Let the nodes between layers compute in half precision, with casts at the edges."""
    import onnx
    from onnx import helper, numpy_helper

    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    halved: dict[str, str] = {}  # of tensors of single precision, the name in half
    widened: dict[str, str] = {}  # of tensors of half precision, the name in single

    def cast(value: str, kind: int, made: dict[str, str]) -> str:
        if value not in made:
            made[value] = f'{value}_{"half" if kind == half else "single"}'
            if value in constants:
                array = numpy_helper.to_array(constants[value])
                graph.initializer.append(numpy_helper.from_array(_in_half(array), made[value]))
            else:
                name = f'cast_{made[value]}'
                nodes.append(helper.make_node('Cast', [value], [made[value]], name, to=kind))
        return made[value]

    narrow: set[str] = set()  # tensors that are of half precision
    for node in graph.node:
        computes_half = node.name in flow.between and node.op_type not in SINGLE
        for i, value in enumerate(node.input):
            # Scales of Resize are of single precision always.
            wants_half = computes_half and not (node.op_type == 'Resize' and i > 0)
            if value in narrow and not wants_half:
                node.input[i] = cast(value, single, widened)
            elif value not in narrow and wants_half and flow.is_float(value):
                node.input[i] = cast(value, half, halved)
        if computes_half:
            narrow |= {value for value in node.output if flow.is_float(value)}
            if node.op_type == 'Cast' and node.attribute[0].i == single:
                node.attribute[0].i = half
        nodes.append(node)
    outputs = {value.name for value in graph.output}
    assert not narrow & outputs  # they come after the last layers
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)


@contextmanager
def _silent() -> Iterator[None]:
    """Without advice to whoever calls the quantiser, who is not who reads it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def write_int8(source: Path, target: Path, images: Sequence[Path]) -> None:
    """Write a file of a whole model whose layers, but the last ones, compute in eight bits.

    Args:
        images: by which the ranges of values are found.

    Raises:
        UserError: an image cannot be read, or is none that the file takes.
        OSError: it cannot be written; what was there before stays.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    file = OnnxFile(source)
    fed = (file.input_of(image) for image in _resized(images, file))

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            array = next(fed, None)
            return None if array is None else {'image': array}

    model = onnx.load(source)
    fold_weights(model)
    flow = Flow(model)
    with TemporaryDirectory() as folder, _silent():
        quantised = Path(folder, 'int8.onnx')
        quantize_static(
            model,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[name for name in flow.layers if name not in flow.last],
        )
        model = onnx.load(quantised)
    _store_in_half(model)
    _save(model, file.card, target, 'int8')


def calibration_images(folder: Path) -> list[Path]:
    """Images of a folder and of those below it, evenly chosen where there are many.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        raise UserError(f'--int8 {folder}: there is no such folder of images')
    found = [p for p in sorted(folder.rglob('*')) if p.is_file() and cv2.haveImageReader(str(p))]
    if not found:
        raise UserError(f'--int8 {folder}: there is no image in this folder')
    count = min(len(found), CALIBRATED)
    return [found[i * len(found) // count] for i in range(count)]


def _resized(paths: Sequence[Path], file: OnnxFile) -> Iterator[np.ndarray[Any, Any]]:
    for path in paths:
        image = cv2.imread(str(path))
        if image is None:
            raise UserError(f'{path} cannot be read as an image')
        yield cv2.resize(image, file.size_for(image.shape[1], image.shape[0]))


def _store_in_half(model: Any) -> None:
    """Let large tensors lie in the file in half precision; runtimes widen them as they read it."""
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= LARGE:
            name, array = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(_in_half(array), f'{name}_half'))
            casts.append(helper.make_node('Cast', [tensor.name], [name], f'widen_{name}', to=1))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _in_half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.clip(array, -65504, 65504).astype(np.float16)  # its largest numbers


def _save(model: Any, card: Card, target: Path, precision: Literal['half', 'int8']) -> None:
    """Write a model as a whole, once ONNX Runtime has computed an image by it."""
    import onnx

    text = dataclasses.replace(card, precision=precision).to_json()
    onnx.helper.set_model_props(model, {KEY: text})
    with replacing(target) as part:
        onnx.save(model, part)
        OnnxFile(part).run(np.full((*card.size, 3), 100, np.uint8))
