"""Half-precision graphs evaluated truly on a CPU: FP32 arithmetic, every half value rounded.

ONNX Runtime's CPU provider has no half kernels: it runs typed half graphs in FP32 and drops the
casts between its own nodes, so that overflow and rounding never show. An emulated graph computes in
FP32 on purpose, and behind every node of a half type stands a rounding to the nearest (ties to
even) half value, beyond the largest to infinity, below the normal range to a subnormal. It is
written as a pair of casts, which ONNX Runtime keeps where the graph around them is FP32.

So an operator rounds once, at its output: products and convolutions add up in FP32, as tensor cores
do; LayerNormalization, Softmax, Gelu and means compute in FP32 inside, as TensorRT does. What hands
values on or only clips them rounds nothing anew: rounding and clipping to half bounds commute. The
operator Attention in FP16 rounds its scores too (see `attention_parts`).

The operator Attention in its parts, as a kernel that keeps its scores in FP16 computes them.

TensorRT for RTX 1.7 fuses an FP16 Attention into one kernel whose products are added up in FP16
(its plan names `Ampere_hmma_fp16_traits`; the decomposed form with an FP32 softmax gets
`Ampere_hmma_fp32_traits`, and BF16 products are added up in FP32 by the hardware). What such a
kernel loses must show where it is judged: so the scores, before they are scaled, are a value as any
other, and so are their sums with the mask and the shares of the softmax.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.export.graph_files import externalise
from samclip.export.precision.half import DATA_TYPES, TYPE_ATTRIBUTES
from samclip.export.precision.op_types import FLOAT, MOVES, add_initializer, typed_copy
from samclip.runtime.bundles.weights import parse_weights

HALF = ir.DataType.FLOAT16
KNOWN = frozenset({"scale"})  # of its attributes; others change what is computed
OPERANDS = (3, 4)  # queries, keys, values, and a mask


def attention_scale(node: ir.Node) -> float | None:
    """Tell by what an Attention scales its scores; None where its shapes do not tell."""
    if "scale" in node.attributes:
        return node.attributes.get_float("scale", 1.0)
    queries = node.inputs[0]
    size = None if queries is None or queries.shape is None else queries.shape[-1]
    return float(size) ** -0.5 if isinstance(size, int) else None


def take_apart(model: ir.Model) -> None:
    """Replace every FP16 Attention on B x heads x tokens x size by its parts, all in FP16.

    But the scale itself is FP32, so the graph is one to be widened, not to be run.
    """
    for node in list(model.graph):
        if node.op_type == "Attention" and not node.domain and node.outputs[0].dtype == HALF:
            _replace(model.graph, node)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    operands, scale = [x for x in node.inputs if x is not None], attention_scale(node)
    whole = [value for value in node.outputs[1:] if value.name]
    ranks = {None if x.shape is None else x.shape.rank() for x in operands[:3]}
    if scale is None or whole or ranks != {4} or len(operands) not in OPERANDS:
        return
    if set(node.attributes) - KNOWN:
        return
    queries, keys, values, *mask = operands
    factor = add_initializer(graph, f"{node.name}_scale", np.asarray(scale, np.float32))
    turned = ir.node("Transpose", [keys], {"perm": [0, 1, 3, 2]})
    nodes = [turned, ir.node("MatMul", [queries, turned.outputs[0]])]
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], factor]))
    if mask:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], mask[0]]))
    nodes.append(ir.node("Softmax", [nodes[-1].outputs[0]], {"axis": -1}))
    nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], values]))
    for part in nodes:
        part.outputs[0].type = ir.TensorType(HALF)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape = old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])


HALVES = frozenset(DATA_TYPES.values())
CLIPPING = frozenset({"Clip", "Relu"})  # monotone, and exact on half values
FILE, WEIGHTS = "emulated.onnx", "emulated.safetensors"


def emulate(model: ir.Model) -> ir.Model:
    """Give an FP32 graph that computes what `model`, typed in halves by `to_half`, computes.

    Inputs and outputs of a half type become float32. Other graphs come back as they are.
    """
    emulated = typed_copy(model)
    take_apart(emulated)
    graph = emulated.graph
    for value in graph.initializers.values():
        _widen(value)
    halves = {v: v.dtype for n in graph for v in n.outputs if v.dtype in HALVES}
    halves |= {v: v.dtype for v in graph.inputs if v.dtype in HALVES}
    for value in halves:
        value.type = ir.TensorType(FLOAT)
    for value in graph.inputs:
        if value in halves:
            _round(graph, value, halves[value])
    for node in list(graph):
        _evaluate(graph, node, halves)
    return emulated


def half_engine(model: ir.Model) -> Engine:
    """Run a typed half graph on this CPU with true half-precision results."""
    graphs, weights = externalise({FILE: emulate(model)}, WEIGHTS)
    source = GraphSource(
        str(model.graph.name), graphs[FILE], parse_weights(weights), {WEIGHTS: weights}
    )
    return get_backend("onnxruntime").load(source, EngineOptions())


def _widen(value: ir.Value) -> None:
    """Store a half constant as the float32 values that it has."""
    tensor = value.const_value
    if tensor is not None and tensor.dtype in HALVES:
        value.const_value = ir.tensor(tensor.numpy().astype("float32"), name=value.name)
        value.type = ir.TensorType(FLOAT)


def _evaluate(graph: ir.Graph, node: ir.Node, halves: dict[ir.Value, ir.DataType]) -> None:
    """Make a node compute in FP32, and round those of its outputs that are halves."""
    for name in TYPE_ATTRIBUTES:
        if node.attributes.get_int(name, 0) in HALVES:
            node.attributes.add(ir.AttrInt64(name, FLOAT))
    for value in node.outputs:
        if value in halves and node.op_type not in MOVES and not _is_only_clipped(value):
            _round(graph, value, halves[value])


def _is_only_clipped(value: ir.Value) -> bool:
    users = [user for user, _ in value.uses()]
    return not value.is_graph_output() and all(user.op_type in CLIPPING for user in users)


def _round(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Put a rounding behind a float32 value, for all who use it."""
    users = tuple(value.uses())
    down = ir.node("Cast", [value], {"to": half})
    up = ir.node("Cast", [down.outputs[0]], {"to": FLOAT})
    for cast, dtype in ((down, half), (up, FLOAT)):
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [down, up])
    else:
        graph.insert_after(producer, [down, up])
    rounded = up.outputs[0]
    for user, index in users:
        user.replace_input_with(index, rounded)
    if value.is_graph_output():
        value.name, rounded.name = f"{value.name}_exact", value.name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = rounded
