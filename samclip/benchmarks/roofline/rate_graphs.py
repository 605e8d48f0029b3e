"""Small ONNX graphs of nothing but products, by which a machine's rates are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.roofline.read_graph import import_onnx
from samclip.engines.base import GraphSource

OPSET = 20  # every backend reads it
CHANNELS, SIDE = 256, 64  # of SAM's neck: 3x3 over 64 x 64 tokens


@dataclass(frozen=True)
class RateGraph:
    """A graph and what it takes: `operations` a run, two a multiply-accumulate."""

    how: str
    source: GraphSource
    feeds: dict[str, NDArray[np.float32]]
    operations: int


def matrix_product(size: int) -> RateGraph:
    """Two square matrices; the second is a constant, as weights are."""
    onnx, weight = import_onnx(), _noise(size, size)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = _source(onnx, nodes, (size, size), (size, size), {"w": weight})
    how = f"MatMul, {size} x {size}"
    return RateGraph(how, source, {"x": _noise(size, size)}, 2 * size**3)


def convolution() -> RateGraph:
    """Make the 3x3 convolution of SAM's neck."""
    onnx = import_onnx()
    weight = _noise(CHANNELS, CHANNELS, 3, 3)
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    shape = (1, CHANNELS, SIDE, SIDE)
    source = _source(onnx, nodes, shape, shape, {"w": weight})
    operations = 2 * 9 * CHANNELS * CHANNELS * SIDE * SIDE
    how = f"Conv 3x3, {CHANNELS} channels, {SIDE} x {SIDE}"
    return RateGraph(how, source, {"x": _noise(*shape)}, operations)


def quantised_product(size: int) -> RateGraph:
    """Multiply 8-bit values by 8-bit weights between Q/DQ pairs, as INT8 graphs do."""
    onnx, make = import_onnx(), import_onnx().helper.make_node
    constants: dict[str, NDArray[Any]] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.rint(_noise(size, size) * 40).clip(-127, 127).astype(np.int8),
        "t": np.full(size, 0.02, np.float32),
        "u": np.array(2.0, np.float32),
    }
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["a"]),
        make("DequantizeLinear", ["w", "t"], ["b"], axis=1),
        make("MatMul", ["a", "b"], ["c"]),
        make("QuantizeLinear", ["c", "u", "z"], ["r"]),
        make("DequantizeLinear", ["r", "u", "z"], ["y"]),
    ]
    source = _source(onnx, nodes, (size, size), (size, size), constants)
    how = f"MatMul between Q/DQ pairs, {size} x {size}"
    return RateGraph(how, source, {"x": _noise(size, size)}, 2 * size**3)


def _noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _source(
    onnx: Any,
    nodes: list[Any],
    given: tuple[int, ...],
    made: tuple[int, ...],
    constants: dict[str, NDArray[Any]],
) -> GraphSource:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "rate",
        [helper.make_tensor_value_info("x", kind, given)],
        [helper.make_tensor_value_info("y", kind, made)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return GraphSource("rate", model.SerializeToString())
