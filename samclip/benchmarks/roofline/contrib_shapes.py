"""What ONNX Runtime's own operators give: onnx does not know their shapes.

Only those that are counted: https://github.com/microsoft/onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from samclip.benchmarks.roofline.shaped_graph import ShapedNode, TensorType
from samclip.errors import CountError

AS_FIRST_INPUT = {
    "com.microsoft.Gelu",
    "com.microsoft.FastGelu",
    "com.microsoft.QuickGelu",
    "com.microsoft.BiasGelu",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.DequantizeLinear",
}
KNOWN = (*sorted(AS_FIRST_INPUT), "com.microsoft.MultiHeadAttention")


def contrib_types(node: ShapedNode, tensors: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """Tell the types of the outputs of one of these operators; raises CountError for others."""
    first = tensors[node.inputs[0]]
    if node.operator == "com.microsoft.MultiHeadAttention" and len(node.outputs) == 1:
        return {node.outputs[0]: _attention(node, tensors)}
    if node.operator == "com.microsoft.QuantizeLinear":
        zero = tensors[node.inputs[2]]
        return {node.outputs[0]: TensorType(first.shape, zero.dtype, zero.bits)}
    if node.operator == "com.microsoft.DequantizeLinear":
        scale = tensors[node.inputs[1]]
        return {node.outputs[0]: TensorType(first.shape, scale.dtype, scale.bits)}
    if node.operator in AS_FIRST_INPUT:
        return {node.outputs[0]: first}
    raise CountError(
        f"the operator {node.operator} ({node.name!r}) is not known, so its work cannot be "
        f"counted. Known beside ONNX's own are {', '.join(KNOWN)}; count the graph before it is "
        "optimised for one backend."
    )


def _attention(node: ShapedNode, tensors: Mapping[str, TensorType]) -> TensorType:
    """BxQx(N*Dv) of query BxQx(N*Dk) and value, BxLx(N*Dv) or BxNxLxDv."""
    query, value = (tensors.get(name) for name in (node.inputs[0], (*node.inputs, "", "")[2]))
    if query is None or value is None or len(query.shape) != 3:
        raise CountError(
            f"the attention {node.name!r} has its query, key and value packed into one tensor, "
            "which is not counted. Export it with three."
        )
    heads_apart = len(value.shape) == 4
    width = value.shape[1] * value.shape[3] if heads_apart else value.shape[2]
    return TensorType((*query.shape[:2], width), query.dtype, query.bits)
