"""Small edits of graphs: constants, and the types of values that were made by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Give a graph a constant under a name that it does not have yet."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def set_type(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """Say what a value is; None is an unknown shape."""
    value.dtype = dtype
    value.shape = shape
