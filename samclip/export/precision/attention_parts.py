"""The operator Attention in its parts, as a kernel that keeps its scores in FP16 computes them.

TensorRT for RTX 1.7 fuses an FP16 Attention into one kernel whose products are added up in FP16
(its plan names `Ampere_hmma_fp16_traits`; the decomposed form with an FP32 softmax gets
`Ampere_hmma_fp32_traits`, and BF16 products are added up in FP32 by the hardware). What such a
kernel loses must show where it is judged: so the scores, before they are scaled, are a value as any
other, and so are their sums with the mask and the shares of the softmax.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from samclip.export.precision.nodes import add_initializer

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
