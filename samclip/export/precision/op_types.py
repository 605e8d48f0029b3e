"""The inputs and outputs of operators that carry their floating-point type, by ONNX's schemas."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnx import defs

from samclip.errors import ExportError

FLOAT = ir.DataType.FLOAT
HALF_TYPES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}

# Operators that hand values on unchanged: where the input is rounded, so is the output.
MOVES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
# Operators whose result is not a float: they take the type that their operands have already.
READERS = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
        "QuantizeLinear",
        "Shape",
        "Size",
    }
)
# Operators that make floats from nothing or from shapes: cheap, and typed by an attribute.
SOURCES = frozenset({"ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "Range"})
RESIZE_REGION = 1  # the region of interest, an input whose type is independent


def typed_copy(model: ir.Model) -> ir.Model:
    """Copy a model; constants become initializers, and missing types of values are inferred.

    Raises ExportError for graphs with subgraphs or functions, and for a type that stays unknown.
    """
    if model.functions or any(True for _ in model.graph.subgraphs()):
        raise ExportError(
            f"the graph {model.graph.name} holds functions, loops or branches, whose values have "
            "no one type here; export it without them"
        )
    copied = model.clone()
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copied)
    if any(_untyped(copied.graph)):
        common_passes.ShapeInferencePass()(copied)
    for value in _untyped(copied.graph):
        raise ExportError(f"the type of {value.name!r} in the graph {model.graph.name} is unknown")
    return copied


def _untyped(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (value for value in node.outputs if value.name and value.dtype is None)


def float_inputs(node: ir.Node, version: int) -> Iterator[tuple[int, ir.Value]]:
    """Yield the FLOAT inputs of a node that have to change with its type, with their indices."""
    schema = _schema(node, version)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != FLOAT or schema is None:
            continue
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        is_region = node.op_type == "Resize" and index == RESIZE_REGION
        if HALF_TYPES[ir.DataType.FLOAT16] in formal.types and not is_region:
            yield index, value


def float_outputs(node: ir.Node, version: int) -> Iterator[ir.Value]:
    """Yield the FLOAT outputs of a node that change with its type; statistics of norms do not."""
    schema = _schema(node, version)
    for index, value in enumerate(node.outputs):
        if value.dtype != FLOAT or schema is None:
            continue
        formal = schema.outputs[min(index, len(schema.outputs) - 1)]
        if HALF_TYPES[ir.DataType.FLOAT16] in formal.types:
            yield value


def takes_half(node: ir.Node, version: int, half: ir.DataType) -> bool:
    """Whether an operator is defined for `half` in the opset `version`."""
    schema = _schema(node, version)
    if schema is None or node.op_type in SOURCES:
        return False
    inputs = [schema.inputs[min(i, len(schema.inputs) - 1)] for i, _ in float_inputs(node, version)]
    outputs = [schema.outputs[0]] if any(float_outputs(node, version)) else []
    return all(HALF_TYPES[half] in formal.types for formal in (*inputs, *outputs))


def reads_only(node: ir.Node) -> bool:
    """Whether a node takes floats and returns none: a comparison, a cast to integers."""
    return node.op_type in READERS or (
        node.op_type == "Cast" and node.outputs[0].dtype not in (FLOAT, *HALF_TYPES)
    )


def _schema(node: ir.Node, version: int) -> defs.OpSchema | None:
    """Look up an operator's schema; None for operators that are not ONNX's own."""
    if node.domain or not defs.has(node.op_type, version, ""):
        return None
    return defs.get_schema(node.op_type, version, "")
