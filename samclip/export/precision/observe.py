"""Looking at tensors inside a graph while it runs, without ever holding them all.

What is asked of a tensor is computed by nodes added to the graph, so that only small arrays leave
it: extremes, a sample of the values, the largest magnitude of each channel. ONNX Runtime orders
nodes backwards from the ends of the graph, the last end first: so what is asked of the first
tensors stands last, or all tensors would be held until the end.

Graphs in memory, run on ONNX Runtime's CPU: a model of any size, left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.export.graph_files import externalise
from samclip.export.precision.op_types import add_initializer
from samclip.runtime.bundles.weights import parse_weights

WEIGHTS = "weights.safetensors"


def graph_source(model: ir.Model) -> GraphSource:
    """Give a backend's view of a model with its weights inside, which may exceed 2 GiB."""
    file = "graph.onnx"
    graphs, weights = externalise({file: model.clone()}, WEIGHTS)
    name = str(model.graph.name)
    return GraphSource(name, graphs[file], parse_weights(weights), {WEIGHTS: weights})


def open_engine(model: ir.Model) -> Engine:
    """Load a model on ONNX Runtime's CPU; close the engine after use."""
    return get_backend("onnxruntime").load(graph_source(model), EngineOptions())


Array = NDArray[np.generic]
Statistic = Literal["min", "max", "sample", "channels"]
Observed = Mapping[tuple[str, Statistic], Array]

SAMPLE = 2**16  # values of one tensor in a sample, at most twice as many
END = np.iinfo(np.int64).max


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    statistics: Sequence[Statistic],
    feeds: Iterable[Mapping[str, Array]],
) -> Iterator[Observed]:
    """Run a float32 graph, weights inside, on every feed; give statistics by tensor and kind.

    "min" and "max" are scalars; "sample" a vector of evenly spaced values; "channels" the largest
    magnitude along all axes but the last.
    """
    watched = model.clone()
    wanted = {f"{i}.{kind}": (t, kind) for i, t in enumerate(tensors) for kind in statistics}
    values = _values(watched.graph)
    watched.graph.outputs.clear()
    for name, (tensor, kind) in reversed(wanted.items()):  # frees the first values first
        watched.graph.outputs.append(_attach(watched.graph, values[tensor], kind, name))
    if not wanted:
        yield from ({} for _ in feeds)
        return
    with closing(open_engine(watched)) as engine:
        for feed in feeds:
            found = engine.run({name: feed[name] for name in engine.input_names})
            yield {wanted[name]: tensor.numpy() for name, tensor in found.items()}


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    made = (value for node in graph for value in node.outputs)
    return {str(value.name): value for value in (*graph.inputs, *made)}


def _attach(graph: ir.Graph, value: ir.Value, kind: Statistic, name: str) -> ir.Value:
    """Append the nodes that compute a statistic of a value; gives the graph's new output."""
    shape: tuple[int | None, ...] = (None,)
    match kind:
        case "min":
            nodes, shape = [ir.node("ReduceMin", [value], {"keepdims": 0})], ()
        case "max":
            nodes, shape = [ir.node("ReduceMax", [value], {"keepdims": 0})], ()
        case "sample":
            nodes = _sample(graph, value, name)
        case "channels":
            rank = value.shape.rank() if value.shape is not None else 1
            axes = _constant(graph, f"{name}.axes", list(range(rank - 1)))
            size = ir.node("Abs", [value])
            nodes = [size, ir.node("ReduceMax", [size.outputs[0], axes], {"keepdims": 0})]
    for node in nodes:
        graph.append(node)
    output = nodes[-1].outputs[0]
    output.name = name
    output.dtype = ir.DataType.FLOAT
    output.shape = ir.Shape(shape)
    return output


def _sample(graph: ir.Graph, value: ir.Value, name: str) -> list[ir.Node]:
    """Take every k-th value; k is odd, so that it walks through all columns of a map."""
    known = value.shape is not None and value.shape.is_static()
    size = math.prod(value.shape.numpy()) if known and value.shape is not None else 0
    step = max(1, size // SAMPLE) | 1
    numbers = {"line": -1, "start": 0, "end": END, "axis": 0, "step": step}
    line, *cut = (_constant(graph, f"{name}.{key}", [n]) for key, n in numbers.items())
    flat = ir.node("Reshape", [value, line])
    return [flat, ir.node("Slice", [flat.outputs[0], *cut])]


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    return add_initializer(graph, name, np.asarray(numbers, np.int64))
