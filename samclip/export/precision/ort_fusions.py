"""What ONNX Runtime's optimiser would do to a graph with Q/DQ, and how it is kept from it.

Found by comparing results with and without its optimisations, in version 1.31.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from samclip.export.precision.calibration import Calibration, Range
from samclip.export.precision.layers import Layer, find_layers
from samclip.export.precision.nodes import add_initializer, set_type

STEPS = 256  # of a range: what the guard takes off its end is about one step
MIN_APART = 3  # axes of a product whose bias can be kept out of a Gemm


def guard_skipped(model: ir.Model, layers: tuple[Layer, ...], calibration: Calibration) -> None:
    """Keep the convolutions of a graph that are not among the `layers` to quantise in FP32.

    ONNX Runtime rounds the weight of any convolution between Q/DQ pairs, with one scale for all
    channels, and takes rectifiers out that the pair behind them makes superfluous: EfficientNet's
    features fell from a cosine of 0.99 to 0.78. A Clip that cuts more than the pair does stays, and
    stands between.
    """
    chosen = {layer.node for layer in layers}
    for skipped in find_layers(model):
        if skipped.node in chosen or skipped.kind == "linear":
            continue
        value = skipped.output
        readers = [layer for layer in layers if layer.input is value]
        if readers:
            span = calibration.inputs[readers[0].name]
            clipped = _clip(model.graph, value, span, readers[0].node)
            for layer in readers:
                layer.node.replace_input_with(0, clipped)


def _clip(graph: ir.Graph, value: ir.Value, span: Range, before: ir.Node) -> ir.Value:
    """Cut one step off one end of a range; 0, which must stay exact, lies within."""
    margin = (max(span.high, 0.0) - min(span.low, 0.0)) / STEPS
    end = span.high - margin if span.high > 0 else span.low + margin
    bound = add_initializer(graph, f"{value.name}_end", np.asarray(end, np.float32))
    inputs = [value, None, bound] if span.high > 0 else [value, bound]
    node = ir.node("Clip", inputs, name=f"{value.name}_guard")
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
