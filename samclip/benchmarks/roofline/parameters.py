"""The number of parameters of a graph, however its weights are stored.

A parameter is an element of a stored tensor of floating-point numbers, or of integers that the
graph expands to such. No parameters: single numbers, shapes and indices, masks, repetitions (see
`distinct`), and the scales and zero points of quantisation.
"""

from __future__ import annotations

from samclip.benchmarks.roofline.operators import DEQUANTIZE
from samclip.benchmarks.roofline.shaped_graph import ShapedGraph, ShapedNode, TensorType

INTEGERS = frozenset({"int8", "uint8", "int4", "uint4"})
QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft.QuantizeLinear", *DEQUANTIZE})
# Which inputs of quantised products are scales and zero points.
SETTINGS = {
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    **dict.fromkeys(QUANTIZE, (1, 2)),
}


def count_parameters(graph: ShapedGraph) -> int:
    """Add up the elements of a graph's parameters."""
    settings = _settings(graph)
    return sum(
        elements
        for name, elements in graph.distinct.items()
        if name not in settings and _is_number(graph.tensors[name])
    )


def _is_number(kind: TensorType) -> bool:
    return kind.size > 1 and ("float" in kind.dtype or kind.dtype in INTEGERS)


def _settings(graph: ShapedGraph) -> set[str]:
    """Name the tensors that are scales and zero points."""
    found: set[str] = set()
    expanded: set[str] = set()  # what Cast makes of stored integers: weights still to be scaled
    tables: dict[str, str] = {}  # by rows looked up, which may still have to be expanded
    for node in graph.nodes:
        found.update(_named(node, SETTINGS.get(node.operator, ())))
        if node.operator == "Gather":
            tables[node.outputs[0]] = node.inputs[0]
        elif node.operator == "Cast" and graph.tensors[node.inputs[0]].dtype in INTEGERS:
            expanded.update(node.outputs)
        elif node.operator == "Mul" and expanded & set(node.inputs):
            found.update(tables.get(name, name) for name in set(node.inputs) - expanded)
    return found


def _named(node: ShapedNode, places: tuple[int, ...]) -> set[str]:
    return {node.inputs[place] for place in places if place < len(node.inputs)}
