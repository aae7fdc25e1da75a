"""The layers of an ONNX graph, and what lies between them: which of it bears fewer bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

#: Operators that are layers where they have weights.
LAYERS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


#: What turns a weight into itself in another form.
FORMS = {'Identity', 'Reshape', 'Squeeze', 'Transpose', 'Unsqueeze'}


def fold_weights(model: Any) -> None:
    """Let the weights of layers stand in a model as the layers read them.

    Weights of fused layers may be matrices that the graph brings into another form each time, which
    runtimes do once when they read a file; what changes their precision needs it done before.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    known = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == 'Constant' and node.attribute[0].name == 'value':
            known[node.output[0]] = node.attribute[0].t
        if node.op_type not in FORMS or not all(name in known for name in node.input):
            nodes.append(node)
            continue
        fed = {name: numpy_helper.to_array(known[name]) for name in node.input}
        results: Any = ReferenceEvaluator(node, opsets=opsets).run(None, fed)
        tensor = numpy_helper.from_array(results[0], node.output[0])
        known[tensor.name] = tensor
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)


def drop_unused(graph: Any) -> None:
    """Take away the tensors of a graph that no node reads."""
    used = {value for node in graph.node for value in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


class Flow:
    """How floating-point numbers flow through a graph.

    Boxes that features are taken at are no part of the flow: they choose what is looked at, and
    what computes them is not what computes the features.

    Attributes:
        layers: names of nodes with weights, in the graph's order.
        last: those of the layers after which there is no other one.
        between: names of the nodes on a way from a layer to another, the layers themselves too.
    """

    def __init__(self, model: Any) -> None:
        """Look at a model whose nodes have names, each another, and no graphs inside them."""
        import onnx

        graph = onnx.shape_inference.infer_shapes(model).graph
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for values in (graph.value_info, graph.input, graph.output)
            for value in values
        }
        constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.types.update(constants)
        self.fixed = {*constants} | {
            name for node in graph.node if node.op_type == 'Constant' for name in node.output
        }
        nodes = {node.name: node for node in graph.node}
        self.layers = [name for name, node in nodes.items() if self._is_layer(node)]
        makers = {output: name for name, node in nodes.items() for output in node.output}
        before: dict[str, set[str]] = {}
        after: dict[str, set[str]] = {name: set() for name in nodes}
        for name, node in nodes.items():
            made = {makers[value] for value in self._flowing(node) if value in makers}
            before[name] = made
            for other in made:
                after[other].add(name)
        leading = _reached(self.layers, before)  # to a layer
        following = _reached(self.layers, after)
        self.between = leading & following
        ends = {name for layer in self.layers for name in before[layer]}
        onward = _reached(ends, before)
        self.last = [name for name in self.layers if name not in onward]

    def is_float(self, value: str) -> bool:
        """Whether a tensor is of single precision."""
        return self.types.get(value) == 1  # onnx.TensorProto.FLOAT

    def _is_layer(self, node: Any) -> bool:
        return node.op_type in LAYERS and node.input[1] in self.fixed

    def _flowing(self, node: Any) -> Iterator[str]:
        inputs = node.input[:1] if node.op_type == 'RoiAlign' else node.input
        return (value for value in inputs if value not in self.fixed and self.is_float(value))


def _reached(starts: Iterable[str], edges: dict[str, set[str]]) -> set[str]:
    """All that can be reached from somewhere, the starts too."""
    seen, waiting = set(starts), list(starts)
    while waiting:
        for name in edges[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen
