"""Conversion of an FP32 graph to a strongly typed one in FP16 or BF16, with explicit casts.

Every value has one type, that of the node which computes it; a value needed in the other type is
cast once, where it is computed. So consecutive nodes that stay in FP32 exchange FP32, and what they
hand on unchanged (transpositions, windows) stays FP32 between them.

Weights stay FP32 initializers, each followed by one `Cast`, which backends fold when they load the
graph, so that all variants share one weights file; constants that lie in the graph file itself are
stored in the half type. Inputs and outputs of the graph stay float32.

NVIDIA ModelOpt's AutoCast (`modelopt.onnx.autocast.convert_to_mixed_precision`) converts to FP16 or
BF16 as well: it keeps nodes in FP32 by name, operator or range (`nodes_to_exclude`,
`op_types_to_exclude`, `init_max`, `data_max` on `calibration_data`), and inputs and outputs on
request (`keep_io_types`). What differs here: all variants of a graph share one FP32 weights file,
and the dependencies are few. The older onnxruntime.transformers.float16 and onnxconverter-common
replace the weights, clamp constants beyond FP16 in silence, know no BF16, and wrap kept nodes one
by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.graph_files import MIN_EXTERNAL_BYTES
from samclip.export.precision.graph_edits import add_initializer, name_nodes, set_type
from samclip.export.precision.op_types import (
    FLOAT,
    MOVES,
    float_inputs,
    float_outputs,
    reads_only,
    takes_half,
    typed_copy,
)

Array = NDArray[np.floating]
HalfPrecision = Literal["fp16", "bf16"]
DATA_TYPES: dict[HalfPrecision, ir.DataType] = {
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}
LARGEST: dict[HalfPrecision, float] = {"fp16": 65504.0, "bf16": 3.3895313892515355e38}
SMALLEST: dict[HalfPrecision, float] = {"fp16": 2.0**-24, "bf16": 2.0**-133}
SMALLEST_NORMAL: dict[HalfPrecision, float] = {"fp16": 2.0**-14, "bf16": 2.0**-126}
TYPE_ATTRIBUTES = ("to", "output_dtype")  # of Cast, of DequantizeLinear
SCALED = ("QuantizeLinear", "DequantizeLinear")
SCALE = 1  # the input of these that holds it


def to_half(model: ir.Model, dtype: HalfPrecision, keep: frozenset[str]) -> ir.Model:
    """Return a copy that computes in `dtype`, but in FP32 in the nodes named in `keep`.

    Nodes that half precision cannot compute stay FP32 too: see `find_exact_nodes`. Raises
    ExportError for graphs with subgraphs or functions, and for names in `keep` that no node has.
    """
    name_nodes(model)
    unknown = keep - {str(node.name) for node in model.graph}
    if unknown:
        raise ExportError(
            f"the graph {model.graph.name} has no node {sorted(unknown)[0]!r} to keep in FP32; "
            "name nodes of this variant of the graph"
        )
    typed = typed_copy(model)
    _Conversion(typed, dtype).run(find_exact_nodes(typed, dtype, keep))
    common_passes.RemoveUnusedNodesPass()(typed)
    return typed


def find_exact_nodes(
    model: ir.Model, dtype: HalfPrecision, keep: frozenset[str] = frozenset()
) -> frozenset[ir.Node]:
    """Find the nodes of a typed graph that stay FP32: those in `keep`, and those that must.

    These are the nodes whose operator is not defined for `dtype` in the graph's opset (for BF16
    convolutions come with opset 22); whose constants lie beyond its range; and whose constants
    would be zero in it, with those that read the result: x / max(n, 1e-9) must not become x / 0.
    Nodes that hand values on between these, or only compare what is there in FP32, follow them.
    """
    nodes, version = list(model.graph), model.opset_imports.get("", 0)
    exact = {n for n in nodes if n.name in keep or not _is_computable(n, version, dtype)}
    for node in nodes:
        sizes = _constants(node, version).values()
        # A constant that is not 0 rounds to nearest, ties to even, so half the smallest is 0.
        if any(0 < size.max(initial=0) <= SMALLEST[dtype] / 2 for size in sizes):
            exact.update((node, *_readers(node)))
    awaited: set[ir.Node] = set()  # nodes that hand values on to where FP32 is wanted
    for node in reversed(nodes):
        users = {user for value in node.outputs for user, _ in value.uses()}
        is_output = any(value.is_graph_output() for value in node.outputs)
        if node.op_type in MOVES and (is_output or not users.isdisjoint(exact | awaited)):
            awaited.add(node)
    for node in nodes:
        if (node in awaited or reads_only(node)) and any(
            value.is_graph_input() or value.producer() in exact
            for _, value in float_inputs(node, version)
        ):
            exact.add(node)
    return frozenset(exact)


def _is_computable(node: ir.Node, version: int, dtype: HalfPrecision) -> bool:
    """Whether half precision has the operator of a node, and holds the node's constants."""
    if not takes_half(node, version, DATA_TYPES[dtype]):
        return False
    for index, sizes in _constants(node, version).items():
        if np.any(sizes[np.isfinite(sizes)] > LARGEST[dtype]):
            return False
        if node.op_type in SCALED and index == SCALE:  # half would lose digits
            return not np.any(sizes < SMALLEST_NORMAL[dtype])
    return True


def _constants(node: ir.Node, version: int) -> dict[int, Array]:
    """Return the magnitudes of a node's constant inputs by their index."""
    return {
        index: np.abs(value.const_value.numpy())
        for index, value in float_inputs(node, version)
        if value.const_value is not None
    }


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes that read a node's results, also where others hand them on."""
    for value in node.outputs:
        for user, _ in value.uses():
            yield user
            if user.op_type in MOVES:
                yield from _readers(user)


class _Conversion:
    """The rewriting of one typed FP32 graph, in place."""

    def __init__(self, model: ir.Model, dtype: HalfPrecision) -> None:
        self._graph = model.graph
        self._version = model.opset_imports.get("", 0)
        self._dtype: HalfPrecision = dtype
        self._half = DATA_TYPES[dtype]
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self, exact: frozenset[ir.Node]) -> None:
        """Set types and casts in the order of the graph; the nodes in `exact` stay FP32."""
        nodes = list(self._graph)
        operands = {node: list(float_inputs(node, self._version)) for node in nodes}
        for node in nodes:
            if node not in exact:
                self._make_half(node)
        for node in nodes:
            wanted = FLOAT if node in exact else self._half
            for index, value in operands[node]:
                if value.dtype != wanted:
                    node.replace_input_with(index, self._cast(value, wanted, node))
        for index, value in enumerate(self._graph.outputs):
            if value.dtype == self._half:  # the output keeps its name and type
                name = str(value.name)
                value.name = f"{name}_{self._dtype}"
                node = _make_cast(value, FLOAT, name)
                self._graph.append(node)
                self._graph.outputs[index] = node.outputs[0]

    def _make_half(self, node: ir.Node) -> None:
        for value in list(float_outputs(node, self._version)):
            value.type = ir.TensorType(self._half)
        for name in TYPE_ATTRIBUTES:
            if node.attributes.get_int(name, 0) == FLOAT:
                node.attributes[name] = ir.AttrInt64(name, self._half)

    def _cast(self, value: ir.Value, wanted: ir.DataType, user: ir.Node) -> ir.Value:
        """Return `value` in the type `wanted`: a rounded constant, or one cast for all users."""
        key = (value, wanted)
        if key not in self._casts:
            self._casts[key] = self._round_constant(value, user) or self._add_cast(
                value, wanted, user
            )
        return self._casts[key]

    def _round_constant(self, value: ir.Value, user: ir.Node) -> ir.Value | None:
        """Round a small constant, or a scale of any size; None for weights and activations.

        TensorRT wants the scales of quantisation to be constants.
        """
        tensor = value.const_value
        is_scale = user.op_type in SCALED
        if tensor is None or (tensor.nbytes >= MIN_EXTERNAL_BYTES and not is_scale):
            return None
        name = f"{value.name}_{self._dtype}"
        rounded = tensor.numpy().astype(self._half.numpy())
        return add_initializer(self._graph, name, rounded)

    def _add_cast(self, value: ir.Value, wanted: ir.DataType, user: ir.Node) -> ir.Value:
        """Cast a value where it is computed, so that the cast serves every user."""
        name = f"{value.name}_{'fp32' if wanted == FLOAT else self._dtype}"
        node = _make_cast(value, wanted, name)
        producer = value.producer()
        if producer is None:  # an input or a weight: its first user comes first
            self._graph.insert_before(user, node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]


def _make_cast(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": wanted}, name=f"cast_{name}")
    result = node.outputs[0]
    result.name = name
    set_type(result, wanted, value.shape)
    return node


def casts(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the casts of activations in a typed graph; casts of weights are folded on loading."""
    for node in model.graph:
        if node.op_type == "Cast" and (source := node.inputs[0]) and source.const_value is None:
            yield node
