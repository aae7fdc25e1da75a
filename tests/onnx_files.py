"""Files as `vitbackbones export --part model` writes them, of a few nodes: they tell colours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = ['red', 'green', 'blue']
#: Where every image has an object: x1, y1, x2, y2 as shares of width and height.
PLACE = (0.25, 0.25, 0.75, 0.5)
CELLS = 8  # of a raw mask, along each side

CARD: dict[str, Any] = dict(
    version='0',
    config='colours',
    task='boxes',
    classes=CLASSES,
    palette=[[200, 0, 0], [0, 200, 0], [0, 0, 200]],
    scale=[96, 64],
    keep_ratio=True,
    layout='chw',
    channels='rgb',
    dtype='uint8',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    divisor=32,
    smallest=1,
    size=[64, 96],
    dynamic=True,
    masks=None,
    mask_threshold=None,
    probabilities=False,
    precision='float32',
    weights=None,
    format=1,
)


def write_colours(path: Path, **changes: Any) -> Path:
    """A file whose card is :data:`CARD` with ``changes``, and what it says comes out of it.

    Detectors find three boxes at :data:`PLACE`, one of each class; their scores are how much of the
    colour is in the image; with ``found=0`` they find none. The raw masks are ramps. Segmentors
    tell each pixel's brightest colour, or with ``channels=1`` how red it is.
    """
    single = changes.pop('outputs', 3) == 1
    found = changes.pop('found', 3)
    card = {**CARD, **changes}
    graph = _Graph(card)
    colours = graph.colours()
    if card['task'] == 'labels':
        _segment(graph, colours, card, single)
    else:
        _detect(graph, colours, card, found)
    model = graph.model()
    helper.set_model_props(model, {'vitbackbones': json.dumps(card)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_layers(path: Path) -> Path:
    """A detector of two stages in a few layers with random weights.

    `early` makes the features, its weights a matrix in another form; `propose` a box of them, which
    `refine` and `classify` read them in. Between are a normalisation and a softmax.
    """
    draw = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    card = {**CARD, 'scale': [64, 64], 'size': [64, 64]}
    graph = _Graph(card)
    matrix = graph.add('Unsqueeze', weight(64, 3), np.array([2, 3]))
    features = graph.add('Conv', graph.colours(), matrix, name='early')
    features = graph.add('Relu', features)
    rows = graph.add('Transpose', features, perm=[0, 2, 3, 1])
    ones = np.ones(64, np.float32)
    normal = graph.add('LayerNormalization', rows, ones, 0 * ones, name='norm')
    features = graph.add('Transpose', normal, perm=[0, 3, 1, 2])
    deltas = graph.add('Conv', features, weight(4, 64, 1, 1), name='propose')
    means = graph.add('ReduceMean', deltas, np.array([2, 3]), keepdims=0)
    inside = np.float32([[-5, -5, 5, 5]])
    boxes = graph.add('Add', graph.add('Mul', means, inside), np.float32([[10, 10, 50, 50]]))
    cells = graph.add(
        'RoiAlign', features, boxes, np.array([0]), output_height=4, output_width=4, name='read'
    )
    cells = graph.add('Conv', cells, weight(64, 64, 3, 3), name='refine')
    flat = graph.add('Softmax', graph.add('Flatten', cells), axis=1, name='softmax')
    logits = graph.add('Gemm', flat, weight(256, 3), ones[:3], name='classify')
    scores, labels = graph.add('TopK', graph.add('Sigmoid', logits), np.array([1]), outputs=2)
    graph.output(boxes, 'boxes', TensorProto.FLOAT, 2)
    graph.output(graph.add('Squeeze', scores, np.array([0])), 'scores', TensorProto.FLOAT, 1)
    graph.output(graph.add('Squeeze', labels, np.array([0])), 'labels', TensorProto.INT64, 1)
    model = graph.model()
    helper.set_model_props(model, {'vitbackbones': json.dumps(card)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_foreign(path: Path, metadata: Mapping[str, str] = {}) -> Path:
    """Somebody else's file."""
    graph = _Graph(CARD)
    graph.output(graph.colours(), 'y', TensorProto.FLOAT, 4)
    model = graph.model()
    helper.set_model_props(model, {**metadata})
    onnx.save(model, path)
    return path


class _Graph:
    """Nodes one after the other."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card
        self.nodes: list[Any] = []
        self.outputs: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: Any, outputs: int = 1, name: str = '', **options: Any) -> Any:
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        name = name or f'{kind}{len(self.nodes)}'
        made = [f'{name}_{i}' for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name, **options))
        return made[0] if outputs == 1 else made

    def constant(self, value: Any) -> str:
        name = f'constant{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def colours(self) -> str:
        """(1, 3, H, W) of R, G, B in float32, from 0 to 1."""
        x = self.add('Cast', 'image', to=TensorProto.FLOAT)
        if self.card['layout'] == 'hwc':
            x = self.add('Transpose', x, perm=[0, 3, 1, 2])
        if self.card['channels'] == 'bgr':
            x = self.add('Gather', x, np.array([2, 1, 0]), axis=1)
        return self.add('Div', x, np.float32(255))

    def output(self, value: str, name: str, kind: int, axes: int) -> None:
        self.nodes.append(helper.make_node('Identity', [value], [name], f'give_{name}'))
        self.outputs.append(helper.make_tensor_value_info(name, kind, [None] * axes))

    def model(self) -> Any:
        height, width = ('h', 'w') if self.card['dynamic'] else self.card['size']
        shape = [1, height, width, 3] if self.card['layout'] == 'hwc' else [1, 3, height, width]
        kind = TensorProto.UINT8 if self.card['dtype'] == 'uint8' else TensorProto.FLOAT
        image = helper.make_tensor_value_info('image', kind, shape)
        graph = helper.make_graph(self.nodes, 'colours', [image], self.outputs, self.constants)
        opsets = [helper.make_opsetid('', 18)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _detect(graph: _Graph, colours: str, card: dict[str, Any], found: int) -> None:
    shape = graph.add('Shape', colours)
    size = graph.add('Cast', graph.add('Gather', shape, np.array([3, 2, 3, 2])), to=1)
    boxes = graph.add('Mul', np.float32([PLACE] * 3)[:found], size)
    means = graph.add('Squeeze', graph.add('ReduceMean', colours, np.array([2, 3])))
    scores, labels = graph.add('TopK', means, np.array([found]), outputs=2)
    graph.output(boxes, 'boxes', TensorProto.FLOAT, 2)
    graph.output(scores, 'scores', TensorProto.FLOAT, 1)
    graph.output(labels, 'labels', TensorProto.INT64, 1)
    if card['masks'] == 'raw':
        ramp = np.linspace(0, 1, CELLS, dtype=np.float32)
        masks = np.stack([ramp[:, None] * ramp, ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None]])
        graph.output(graph.add('Gather', masks, labels), 'masks', TensorProto.FLOAT, 3)
    if card['masks'] == 'pasted':
        seen = graph.add('Gather', graph.add('Squeeze', colours, np.array([0])), labels)
        graph.output(graph.add('Greater', seen, np.float32(0.5)), 'masks', TensorProto.BOOL, 3)


def _segment(graph: _Graph, colours: str, card: dict[str, Any], single: bool) -> None:
    logits = graph.add('Mul', colours, np.float32(5))
    if single:
        logits = graph.add('Gather', logits, np.array([0]), axis=1)
        values = graph.add('Sigmoid', graph.add('Sub', logits, np.float32(2)))
    else:
        values = graph.add('Softmax', logits, axis=1)
    if card['probabilities']:
        graph.output(values, 'probabilities', TensorProto.FLOAT, 4)
    else:
        best = graph.add('ArgMax', values, axis=1, keepdims=0)
        graph.output(best, 'labels', TensorProto.INT64, 3)
