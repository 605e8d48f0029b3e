"""Statistics of the tensors inside a graph, photo by photo, computed while the graph runs.

Each statistic is computed by nodes that are added to the graph, so that only small arrays leave
it, and the runtime frees every tensor as soon as its statistics are known: memory does not grow
with the number of tensors observed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.export.cpu_engine import open_on_cpu
from samclip.export.precision.graph_edits import add_initializer, set_type

Array = NDArray[np.generic]
Statistic = Literal["min", "max", "peak", "sample", "channels"]
Observed = Mapping[tuple[str, Statistic], Array]

SAMPLE = 2**16  # values of one tensor in a sample, at most twice as many
END = np.iinfo(np.int64).max


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    statistics: Sequence[Statistic],
    feeds: Iterable[Mapping[str, Array]],
) -> Iterator[Observed]:
    """Run a float32 graph, weights inside, on every feed; yield statistics by tensor and kind.

    "min" and "max" are scalars; "peak", a scalar, is the largest finite magnitude; "sample" a
    vector of evenly spaced values; "channels" the largest magnitudes along all axes but the last.
    """
    watched = model.clone()
    graph = watched.graph
    wanted = {f"{i}.{kind}": (t, kind) for i, t in enumerate(tensors) for kind in statistics}
    made = (value for node in graph for value in node.outputs)
    values = {str(value.name): value for value in (*graph.inputs, *made)}
    has_infinity = "peak" in statistics and any(map(_is_infinite, graph.initializers.values()))
    graph.outputs.clear()
    # ONNX Runtime orders nodes backwards from the graph's outputs, the last output first. In the
    # reverse of the tensors' order each is observed right after it is made; in their own order all
    # of them would be held until the end.
    for name, (tensor, kind) in reversed(wanted.items()):
        graph.outputs.append(_add_statistic(graph, values[tensor], kind, name, has_infinity))
    if not wanted:
        yield from ({} for _ in feeds)
        return
    with closing(open_on_cpu(watched)) as engine:
        for feed in feeds:
            found = engine.run({name: feed[name] for name in engine.input_names if name in feed})
            yield {wanted[name]: tensor.numpy() for name, tensor in found.items()}


def _is_infinite(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    return bool(np.isinf(tensor.numpy()).any())


def _add_statistic(
    graph: ir.Graph, value: ir.Value, kind: Statistic, name: str, has_infinity: bool
) -> ir.Value:
    """Append the nodes that compute a statistic of a value, and return their result."""
    shape: list[int | None] = []
    match kind:
        case "min":
            nodes = [ir.node("ReduceMin", [value], {"keepdims": 0})]
        case "max":
            nodes = [ir.node("ReduceMax", [value], {"keepdims": 0})]
        case "peak":
            nodes = _peak_nodes(value, has_infinity)
        case "sample":
            nodes, shape = _sample_nodes(graph, value, name), [None]
        case "channels":
            nodes, shape = _channel_nodes(graph, value, name), [None]
    graph.extend(nodes)
    output = nodes[-1].outputs[0]
    output.name = name
    set_type(output, ir.DataType.FLOAT, ir.Shape(shape))
    return output


def _peak_nodes(value: ir.Value, has_infinity: bool) -> list[ir.Node]:
    """Reduce a value to max |x|, without the infinities of masks if the graph has any.

    Two reductions read the value; |x| would write a copy of it.
    """
    nodes: list[ir.Node] = []
    if has_infinity:
        nodes.append(ir.node("IsInf", [value]))
        nodes.append(ir.node("Constant", [], {"value_float": 0.0}))
        nodes.append(ir.node("Where", [nodes[0].outputs[0], nodes[1].outputs[0], value]))
        value = nodes[-1].outputs[0]
    extremes = [ir.node(op, [value], {"keepdims": 0}) for op in ("ReduceMax", "ReduceMin")]
    sizes = [ir.node("Abs", [node.outputs[0]]) for node in extremes]
    return [*nodes, *extremes, *sizes, ir.node("Max", [node.outputs[0] for node in sizes])]


def _sample_nodes(graph: ir.Graph, value: ir.Value, name: str) -> list[ir.Node]:
    """Take every k-th value; k is odd, so that it walks through all columns of a map."""
    known = value.shape is not None and value.shape.is_static()
    size = math.prod(value.shape.numpy()) if known and value.shape is not None else 0
    step = max(1, size // SAMPLE) | 1
    numbers = {"line": -1, "start": 0, "end": END, "axis": 0, "step": step}
    line, *cut = (_constant(graph, f"{name}.{key}", [n]) for key, n in numbers.items())
    flat = ir.node("Reshape", [value, line])
    return [flat, ir.node("Slice", [flat.outputs[0], *cut])]


def _channel_nodes(graph: ir.Graph, value: ir.Value, name: str) -> list[ir.Node]:
    """Reduce a value to max |x| along all axes but the last."""
    rank = value.shape.rank() if value.shape is not None else 1
    axes = _constant(graph, f"{name}.axes", list(range(rank - 1)))
    size = ir.node("Abs", [value])
    return [size, ir.node("ReduceMax", [size.outputs[0], axes], {"keepdims": 0})]


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    return add_initializer(graph, name, np.asarray(numbers, np.int64))
