"""Small edits of graphs in memory, which several conversions need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def name_nodes(model: ir.Model) -> None:
    """Name every node that has no name, in place; all names are unique afterwards."""
    taken = {node.name for node in model.graph if node.name}
    for index, node in enumerate(model.graph):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def ancestors(*values: ir.Value, until: Collection[str] = ()) -> Iterator[ir.Value]:
    """Yield every value that one of `values` is computed from, each once.

    Operators of the types `until` end the search: their inputs are left out.
    """
    seen: set[ir.Value] = set()
    waiting = [*values]
    while waiting:
        node = waiting.pop().producer()
        for source in () if node is None or node.op_type in until else node.inputs:
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
                yield source


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add a constant to a graph, which must not have its name yet."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes right behind the one that makes `value`; for an input, before all others."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def set_type(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """State the type and shape of a value; None is an unknown shape."""
    value.dtype = dtype
    value.shape = shape
