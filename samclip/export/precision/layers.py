"""The layers of a graph that INT8 pays for: linear layers and convolutions with constant weights.

Everything else stays as it is: residual sums, products of attention, normalisations, activations.
A layer is named after its parameters, as "stages.0.blocks.1.attn.qkv", because these names are the
same in every lowering of a graph, where names of nodes and tensors differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.errors import ExportError

Kind = Literal["linear", "conv", "depthwise"]

MIN_CHANNELS = 16  # in and out, of a linear layer: below there is nothing to gain
RECTIFIERS = ("Relu", "Clip")  # integer convolutions apply them on the way


@dataclass(frozen=True)
class Layer:
    """One MatMul, Gemm or Conv and its float32 weight.

    `weight` is KxN (inputs by outputs) for a linear layer, OxIxHxW for a convolution; `axis` is
    that of its output channels.
    """

    name: str
    kind: Kind
    node: ir.Node
    weight: NDArray[np.float32]

    @property
    def axis(self) -> int:
        """The axis of the weight's output channels."""
        return 1 if self.kind == "linear" else 0

    @property
    def input(self) -> ir.Value:
        """The activation that comes in."""
        value = self.node.inputs[0]
        if value is None:
            raise ExportError(
                f"the node {self.node.name} has no input; export the graph again, or keep this "
                "layer in FP32"
            )
        return value

    @property
    def output(self) -> ir.Value:
        """The activation that goes out; behind a rectifier if that is its only reader."""
        value = self.node.outputs[0]
        users = value.consumers()
        if len(users) == 1 and users[0].op_type in RECTIFIERS and not value.is_graph_output():
            return users[0].outputs[0]
        return value


def find_layers(model: ir.Model) -> tuple[Layer, ...]:
    """List the layers of a graph in its order; their names are unique."""
    seen: Counter[str] = Counter()
    layers = []
    for node, kind, weight in _candidates(model.graph):
        stem = _stem(node)
        seen[stem] += 1
        name = stem if seen[stem] == 1 else f"{stem}#{seen[stem]}"
        layers.append(Layer(name, kind, node, weight))
    return tuple(layers)


def layer_depths(model: ir.Model) -> Iterator[tuple[Layer, int]]:
    """Yield the layers of a graph in its order, each with the most layers that come before it."""
    found = {layer.node: layer for layer in find_layers(model)}
    depths: dict[ir.Value | None, int] = {}  # of a value, with the layer that makes it
    for node in model.graph:
        before = max((depths.get(value, 0) for value in node.inputs), default=0)
        layer = found.get(node)
        if layer is not None:
            yield layer, before
        depths |= dict.fromkeys(node.outputs, before + (layer is not None))


def _candidates(graph: ir.Graph) -> Iterator[tuple[ir.Node, Kind, NDArray[np.float32]]]:
    for node in graph:
        if node.op_type not in {"MatMul", "Gemm", "Conv"} or node.domain:
            continue
        weight = _constant(node.inputs[1])
        activation = node.inputs[0]
        if weight is None or activation is None or _constant(activation) is not None:
            continue
        if node.op_type == "Conv":
            groups = node.attributes.get_int("group", 1)
            yield node, "depthwise" if groups == len(weight) and groups > 1 else "conv", weight
        elif _is_linear(node, weight, activation):
            transposed = bool(node.attributes.get_int("transB", 0))
            yield node, "linear", np.ascontiguousarray(weight.T) if transposed else weight


def _is_linear(node: ir.Node, weight: NDArray[np.float32], activation: ir.Value) -> bool:
    """Whether a product is a linear layer that gains from INT8.

    Probabilities are left out: behind a Softmax almost all values are far below one step of INT8.
    """
    if weight.ndim != 2 or min(weight.shape) < MIN_CHANNELS:
        return False
    producer = activation.producer()
    if producer is not None and producer.op_type == "Softmax":
        return False
    numbers = node.attributes
    return node.op_type == "MatMul" or (
        numbers.get_int("transA", 0) == 0
        and numbers.get_float("alpha", 1.0) == 1.0
        and numbers.get_float("beta", 1.0) == 1.0
    )


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Return a float32 initializer or the transpose of one; None for all other values."""
    if value is None:
        return None
    if value.is_initializer() and value.const_value is not None:
        array = value.const_value.numpy()
        return array if array.dtype == np.float32 else None
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    source = _constant(producer.inputs[0])
    if source is None:
        return None
    order = producer.attributes.get_ints("perm", tuple(reversed(range(source.ndim))))
    return np.ascontiguousarray(source.transpose(order))


def _stem(node: ir.Node) -> str:
    """Name a layer after its bias or weight, whichever is named like a parameter, or its node."""
    for value in (_bias(node), _untransposed(node.inputs[1])):
        name = "" if value is None else str(value.name)
        stem, dot, last = name.rpartition(".")
        if dot and last in {"bias", "weight"}:
            return stem
    return str(node.name)


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """Return the value that a Transpose reads, where one makes `value`; else the value itself."""
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer and producer.op_type == "Transpose" else value


def _bias(node: ir.Node) -> ir.Value | None:
    """Find a layer's bias: its third input, or the constant added right behind a product."""
    if len(node.inputs) > 2:
        return node.inputs[2]
    users = node.outputs[0].consumers()
    if node.op_type != "MatMul" or len(users) != 1 or users[0].op_type != "Add":
        return None
    return next((x for x in users[0].inputs if x is not None and x.is_initializer()), None)
