"""What ONNX Runtime's optimiser would do to a graph with Q/DQ, and how it is kept from it.

Found by comparing results with and without its optimisations, in version 1.31.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from samclip.export.precision.calibration import Calibration, Range
from samclip.export.precision.layers import Layer, find_layers
from samclip.export.precision.nodes import add_initializer, set_type

MIN_APART = 3  # axes of a product whose bias can be kept out of a Gemm


def guard_skipped(model: ir.Model, layers: tuple[Layer, ...], calibration: Calibration) -> None:
    """Keep the convolutions of a graph that are not among the `layers` to quantise in FP32.

    ONNX Runtime rounds the weight of every convolution that has a Q/DQ pair before it and one
    behind it or behind its rectifiers, with one scale for all channels: EfficientNet's features
    fell from a cosine of 0.99 to 0.78. A Max with the lower end of the range, which the pair would
    cut off anyway, stands between.
    """
    chosen = {layer.node for layer in layers}
    for skipped in find_layers(model):
        if skipped.node in chosen or skipped.kind == "linear":
            continue
        value = skipped.output
        readers = [layer for layer in layers if layer.input is value]
        if readers:
            guarded = _max(model.graph, value, calibration.inputs[readers[0].name], readers[0].node)
            for layer in readers:
                layer.node.replace_input_with(0, guarded)


def _max(graph: ir.Graph, value: ir.Value, span: Range, before: ir.Node) -> ir.Value:
    low = np.asarray(min(span.low, 0.0), np.float32)
    bound = add_initializer(graph, f"{value.name}_low", low)
    node = ir.node("Max", [value, bound], name=f"{value.name}_guard")
    node.outputs[0].name = f"{value.name}_guarded"
    set_type(node.outputs[0], ir.DataType.FLOAT, value.shape)
    graph.insert_before(before, node)
    return node.outputs[0]


def keep_bias_apart(graph: ir.Graph, layer: Layer) -> None:
    """Give a linear layer's bias as many axes as its output.

    ONNX Runtime makes a Gemm of a MatMul and a vector that is added, before it looks for integer
    products, and a Gemm with an FP32 bias is none.
    """
    product = layer.node.outputs[0]
    users, rank = product.consumers(), 0 if product.shape is None else product.shape.rank()
    if len(users) != 1 or users[0].op_type != "Add" or rank < MIN_APART:
        return
    for index, bias in enumerate(users[0].inputs):
        if bias is not None and bias.is_initializer() and bias.const_value is not None:
            wide = bias.const_value.numpy().reshape((1,) * (rank - 1) + (-1,))
            apart = add_initializer(graph, f"{layer.name}.wide_bias", wide)
            users[0].replace_input_with(index, apart)
