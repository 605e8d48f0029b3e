"""From an FP32 graph to a strongly typed one in FP16 or BF16, with explicit casts.

Every value has one type, that of the node which computes it; a value needed in the other type is
cast once, where it arises. So nodes kept in FP32 that follow one another exchange FP32, and what
they hand on unchanged (transpositions, windows) stays FP32 between them.

Weights stay FP32 initializers, each followed by one `Cast`, which backends fold when they load the
graph, so that all variants share one weights file; constants that lie in the graph file itself are
stored in the half type. Inputs and outputs of the graph stay float32.

The converters that are there (onnxruntime.transformers.float16, onnxconverter-common) replace the
weights, clamp constants beyond FP16 in silence, know no BF16, and wrap kept nodes one by one.
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
from samclip.export.precision.keep import name_nodes
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
SCALE = 1  # their input


def to_half(model: ir.Model, dtype: HalfPrecision, keep: frozenset[str]) -> ir.Model:
    """Give a copy that computes in `dtype`, but in FP32 where a node is called as in `keep`.

    Nodes stay FP32 as well whose operator is not defined for `dtype` in the graph's opset (for
    BF16 convolutions come with opset 22), whose constants lie beyond its range, or whose constants
    would be zero in it, with those that read the result: x / max(n, 1e-9) must not become x / 0.
    Raises ExportError for graphs with subgraphs or functions, and for names in `keep` that no node
    has.
    """
    name_nodes(model)
    unknown = keep - {str(node.name) for node in model.graph}
    if unknown:
        raise ExportError(
            f"the graph {model.graph.name} has no node {sorted(unknown)[0]!r} to keep in FP32; "
            "name nodes of this variant of the graph"
        )
    typed = typed_copy(model)
    _Conversion(typed, dtype).run(keep)
    common_passes.RemoveUnusedNodesPass()(typed)
    return typed


class _Conversion:
    """The rewriting of one graph, in place."""

    def __init__(self, model: ir.Model, dtype: HalfPrecision) -> None:
        self._graph = model.graph
        self._version = model.opset_imports.get("", 0)
        self._dtype: HalfPrecision = dtype
        self._half = DATA_TYPES[dtype]
        self._exact: set[ir.Node] = set()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self, keep: frozenset[str]) -> None:
        """Choose each node's type, then set types and casts in the order of the graph."""
        nodes = list(self._graph)
        self._exact = {n for n in nodes if n.name in keep or self._must_stay_exact(n)}
        for node in nodes:
            if any(self._vanishes(sizes) for sizes in self._constants(node).values()):
                self._exact.update((node, *_readers(node)))
        self._spread(nodes)
        operands = {node: list(float_inputs(node, self._version)) for node in nodes}
        for node in nodes:
            if node not in self._exact:
                self._make_half(node)
        for node in nodes:
            wanted = FLOAT if node in self._exact else self._half
            for index, value in operands[node]:
                if value.dtype != wanted:
                    node.replace_input_with(index, self._cast(value, wanted, node))
        for index, value in enumerate(self._graph.outputs):
            if value.dtype == self._half:
                self._graph.outputs[index] = self._output(value)

    def _must_stay_exact(self, node: ir.Node) -> bool:
        """Whether `node` cannot be computed in the half type at all, or not with its constants."""
        if not takes_half(node, self._version, self._half):
            return True
        for index, sizes in self._constants(node).items():
            if np.any(sizes[np.isfinite(sizes)] > LARGEST[self._dtype]):
                return True
            if node.op_type in SCALED and index == SCALE:  # half would lose digits
                return bool(np.any(sizes < SMALLEST_NORMAL[self._dtype]))
        return False

    def _constants(self, node: ir.Node) -> dict[int, Array]:
        """Give the magnitudes of a node's constant inputs, by their index."""
        return {
            index: np.abs(value.const_value.numpy())
            for index, value in float_inputs(node, self._version)
            if value.const_value is not None
        }

    def _vanishes(self, sizes: Array) -> bool:
        """Whether a constant that is not zero becomes zero: it rounds to nearest, ties to even."""
        return bool(0 < sizes.max(initial=0) <= SMALLEST[self._dtype] / 2)

    def _spread(self, nodes: list[ir.Node]) -> None:
        """Add the nodes that hand FP32 on to where FP32 is wanted, or that only look at it."""
        awaited: set[ir.Node] = set()
        for node in reversed(nodes):
            if node.op_type in MOVES and any(self._is_awaited(v, awaited) for v in node.outputs):
                awaited.add(node)
        for node in nodes:
            if (node in awaited or reads_only(node)) and any(
                self._is_exact(value) for _, value in float_inputs(node, self._version)
            ):
                self._exact.add(node)

    def _is_awaited(self, value: ir.Value, awaited: set[ir.Node]) -> bool:
        users = {user for user, _ in value.uses()}
        return value.is_graph_output() or not users.isdisjoint(self._exact | awaited)

    def _is_exact(self, value: ir.Value) -> bool:
        """Whether a value is an activation that is there in FP32."""
        return value.is_graph_input() or value.producer() in self._exact

    def _make_half(self, node: ir.Node) -> None:
        for value in list(float_outputs(node, self._version)):
            value.type = ir.TensorType(self._half)
        for name in TYPE_ATTRIBUTES:
            if node.attributes.get_int(name, 0) == FLOAT:
                node.attributes[name] = ir.AttrInt64(name, self._half)

    def _cast(self, value: ir.Value, wanted: ir.DataType, user: ir.Node) -> ir.Value:
        """Give `value` in the type `wanted`: a constant rounded now, or one cast for all users."""
        key = (value, wanted)
        if key not in self._casts:
            self._casts[key] = self._constant(value, user) or self._cast_node(value, wanted, user)
        return self._casts[key]

    def _constant(self, value: ir.Value, user: ir.Node) -> ir.Value | None:
        """Round a small constant, or a scale of any size; None for weights and activations.

        TensorRT wants the scales of quantisation to be constants.
        """
        tensor = value.const_value
        is_scale = user.op_type in SCALED
        if tensor is None or (tensor.nbytes >= MIN_EXTERNAL_BYTES and not is_scale):
            return None
        name = f"{value.name}_{self._dtype}"
        rounded = ir.tensor(tensor.numpy().astype(self._half.numpy()), name=name)
        constant = ir.Value(
            name=name,
            shape=value.shape,
            type=ir.TensorType(self._half),
            const_value=rounded,
        )
        self._graph.register_initializer(constant)
        return constant

    def _cast_node(self, value: ir.Value, wanted: ir.DataType, user: ir.Node) -> ir.Value:
        """Cast where the value arises, so that the cast serves every user."""
        name = f"{value.name}_{'fp32' if wanted == FLOAT else self._dtype}"
        node = _make_cast(value, wanted, name)
        producer = value.producer()
        if producer is None:  # an input or a weight: its first user comes first
            self._graph.insert_before(user, node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]

    def _output(self, value: ir.Value) -> ir.Value:
        """Cast an output of the graph, which keeps its name and type."""
        name = str(value.name)
        value.name = f"{name}_{self._dtype}"
        node = _make_cast(value, FLOAT, name)
        self._graph.append(node)
        return node.outputs[0]


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    """Give those who use a node's results, also as others hand them on."""
    for value in node.outputs:
        for user, _ in value.uses():
            yield user
            if user.op_type in MOVES:
                yield from _readers(user)


def _make_cast(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": wanted}, name=f"cast_{name}")
    result = node.outputs[0]
    result.name, result.type, result.shape = name, ir.TensorType(wanted), value.shape
    return node


def casts(model: ir.Model) -> Iterator[ir.Node]:
    """Give the casts of activations in a typed graph; those of weights are folded when it loads."""
    for node in model.graph:
        if node.op_type == "Cast" and (source := node.inputs[0]) and source.const_value is None:
            yield node
