"""Emulation of half-precision graphs on a CPU: FP32 arithmetic, every half value rounded.

ONNX Runtime's CPU provider has no half kernels: it runs typed half graphs in FP32 and drops the
casts between its own nodes, so that overflow and rounding never show. An emulated graph computes in
FP32 on purpose, and behind every node of a half type stands a rounding to the nearest (ties to
even) half value, beyond the largest to infinity, below the normal range to a subnormal. It is
written as a pair of casts, which ONNX Runtime keeps where the graph around them is FP32.

So an operator rounds once, at its output: products and convolutions add up in FP32, as tensor cores
do; LayerNormalization, Softmax, Gelu and means compute in FP32 inside, as TensorRT does. Operators
that hand values on or only clip them need no second rounding: rounding and clipping to half bounds
commute.

The operator Attention in FP16 is an exception: it is replaced by its parts, as a kernel that keeps
its scores in FP16 computes them. TensorRT for RTX 1.7 fuses an FP16 Attention into one kernel whose
products are added up in FP16 (its plan names `Ampere_hmma_fp16_traits`; the decomposed form with an
FP32 softmax gets `Ampere_hmma_fp32_traits`, and BF16 products are added up in FP32 by the
hardware). The loss of such a kernel must show here: so its scores before they are scaled, their
sums with the mask, and the shares of the softmax are rounded like all other values.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from samclip.engines.base import Engine
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.precision.graph_edits import add_initializer, insert_behind, set_type
from samclip.export.precision.half import DATA_TYPES, TYPE_ATTRIBUTES
from samclip.export.precision.op_types import FLOAT, MOVES, typed_copy

HALF = ir.DataType.FLOAT16
HALVES = frozenset(DATA_TYPES.values())
CLIPPING = frozenset({"Clip", "Relu"})  # monotone, and exact on half values
KNOWN = frozenset({"scale"})  # attributes of Attention; others change what is computed
OPERANDS = (3, 4)  # of Attention: queries, keys, values, and a mask


def half_engine(model: ir.Model) -> Engine:
    """Open a typed half graph on this CPU; its results are those of half precision."""
    return open_on_cpu(emulate(model))


def emulate(model: ir.Model) -> ir.Model:
    """Return an FP32 graph with the results of `model`, which `to_half` has typed in halves.

    Inputs and outputs of a half type become float32. Graphs without half types are only copied.
    """
    emulated = typed_copy(model)
    _take_apart(emulated)
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


def _widen(value: ir.Value) -> None:
    """Store a half constant as float32, with the same values."""
    tensor = value.const_value
    if tensor is not None and tensor.dtype in HALVES:
        value.const_value = ir.tensor(tensor.numpy().astype("float32"), name=value.name)
        value.type = ir.TensorType(FLOAT)


def _evaluate(graph: ir.Graph, node: ir.Node, halves: dict[ir.Value, ir.DataType]) -> None:
    """Make a node compute in FP32, and round its half outputs."""
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
    """Put a rounding behind a float32 value, for all its users."""
    users = tuple(value.uses())
    down = ir.node("Cast", [value], {"to": half})
    up = ir.node("Cast", [down.outputs[0]], {"to": FLOAT})
    set_type(down.outputs[0], half, value.shape)
    set_type(up.outputs[0], FLOAT, value.shape)
    insert_behind(graph, value, [down, up])
    rounded = up.outputs[0]
    for user, index in users:
        user.replace_input_with(index, rounded)
    if value.is_graph_output():
        value.name, rounded.name = f"{value.name}_exact", value.name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = rounded


def _take_apart(model: ir.Model) -> None:
    """Replace every FP16 Attention on B x heads x tokens x size by its parts, all in FP16.

    Only the scale is FP32, so the graph cannot run before it is widened to FP32.
    """
    for node in list(model.graph):
        if node.op_type == "Attention" and not node.domain and node.outputs[0].dtype == HALF:
            _replace_attention(model.graph, node)


def _replace_attention(graph: ir.Graph, node: ir.Node) -> None:
    operands = [x for x in node.inputs if x is not None]
    scale = attention_scale(node)
    further_outputs = [value for value in node.outputs[1:] if value.name]
    ranks = {None if x.shape is None else x.shape.rank() for x in operands[:3]}
    if scale is None or further_outputs or ranks != {4} or len(operands) not in OPERANDS:
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


def attention_scale(node: ir.Node) -> float | None:
    """Return the scale of an Attention's scores; None if its shapes leave it open."""
    if "scale" in node.attributes:
        return node.attributes.get_float("scale", 1.0)
    queries = node.inputs[0]
    size = None if queries is None or queries.shape is None else queries.shape[-1]
    return float(size) ** -0.5 if isinstance(size, int) else None
