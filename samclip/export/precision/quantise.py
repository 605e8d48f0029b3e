"""FP32 graphs with Q/DQ: INT8 for linear layers and convolutions, and for nothing else.

A `QuantizeLinear` / `DequantizeLinear` pair stands before every layer, and its weight becomes an
int8 initializer behind a `DequantizeLinear`: symmetric, a scale for each output channel, w ~ q * s
with s = max |w| / 127 (Krishnamoorthi, arXiv 1806.08342, sections 2.2 and 3.1.1). Backends fuse
the three into an integer layer; biases stay as they are. Two forms:

- `symmetric`: int8 activations with the zero point 0, at the inputs of layers alone, so that sums
  and normalisations behind them see what was accumulated. What TensorRT takes.
- `unsigned`: uint8 activations with a zero point, and convolutions' outputs too. CPUs multiply
  unsigned by signed numbers (VNNI), spend no bit on the sign of what is never negative, rectify on
  the way, and ONNX Runtime has integer convolutions only where the output is quantised as well.

Depthwise convolutions stay out of the symmetric form: each of their outputs sums up a few products,
which no tensor core speeds up, and TensorRT for RTX makes far larger plans of them (samclip-tiny's
encoder, with its 54: 251 MB against 33). CPUs take them.

What ONNX Runtime's optimiser would do to a graph with Q/DQ, and how it is kept from it.

Found by comparing results with and without its optimisations, in version 1.31.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from samclip.errors import ExportError
from samclip.export.precision.calibration import Calibration, Range
from samclip.export.precision.layers import Kind, Layer, find_layers
from samclip.export.precision.op_types import add_initializer, set_type

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


Form = Literal["symmetric", "unsigned"]
Array = NDArray[np.generic]

KINDS: dict[Form, frozenset[Kind]] = {
    "symmetric": frozenset({"linear", "conv"}),
    "unsigned": frozenset({"linear", "conv", "depthwise"}),
}
LARGEST = 127  # -128 is left out: the range is symmetric
STEPS = 255  # of an unsigned byte


@dataclass(frozen=True)
class Scale:
    """How an activation is quantised: x ~ (q - `zero`) * `step`; `zero` is int8 or uint8."""

    step: np.float32
    zero: Array


def quantise(
    model: ir.Model,
    calibration: Calibration,
    skip: frozenset[str] = frozenset(),
    form: Form = "symmetric",
) -> ir.Model:
    """Give a copy of a float32 graph, weights inside, with its layers in INT8.

    `skip` names layers, or their nodes, that stay FP32, as depthwise ones do in the symmetric form.
    Raises ExportError for a layer that the calibration does not know, and for weights that are not
    finite.
    """
    model = model.clone()
    layers = prepare(model, calibration, skip, form)
    pairs: dict[ir.Value, ir.Value] = {}
    if form == "unsigned":
        guard_skipped(model, layers, calibration)
    for layer in layers:
        scale = make_scale(calibration.inputs[layer.name], form)
        _quantise_input(model.graph, layer, scale, pairs)
        layer.node.replace_input_with(1, insert_weight(model.graph, layer))
    if form == "unsigned":
        for layer in layers:
            if layer.kind == "linear":
                keep_bias_apart(model.graph, layer)
            else:
                scale = make_scale(calibration.outputs[layer.name], form)
                _quantise_output(model.graph, layer, scale, pairs)
    return RemoveUnusedNodesPass()(model).model


def prepare(
    model: ir.Model,
    calibration: Calibration,
    skip: frozenset[str] = frozenset(),
    form: Form = "symmetric",
) -> tuple[Layer, ...]:
    """Give the layers to quantise in a form, Gemm among them taken apart in the model itself.

    Raises ExportError for a layer that cannot be quantised.
    """
    for layer in _chosen(model, skip, form):
        if layer.node.op_type == "Gemm":
            _split_gemm(model.graph, layer.node)
    layers = _chosen(model, skip, form)
    _check(layers, calibration)
    return layers


def make_scale(span: Range, form: Form) -> Scale:
    """Lay the steps of a byte over a range; 0 is always one of them, for the sake of padding."""
    if form == "symmetric":
        bound = max(-span.low, span.high)
        return Scale(np.float32(bound / LARGEST if bound > 0 else 1.0), np.int8(0))
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    step = np.float32((high - low) / STEPS if high > low else 1.0)
    return Scale(step, np.uint8(np.clip(np.rint(-low / step), 0, STEPS)))


def round_channels(weight: NDArray[np.float32], axis: int) -> tuple[Array, NDArray[np.float32]]:
    """Round a weight to int8 with a scale for each channel along `axis`: values, scales."""
    summed = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=summed, keepdims=True)
    scale = np.where(peak > 0, peak / LARGEST, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale.reshape(-1)


def insert_pair(
    graph: ir.Graph, value: ir.Value, scale: Scale, name: str | None = None
) -> ir.Value:
    """Quantise a value right behind where it is made; gives what comes back out.

    The nodes and their constants are named after `name`, None for that of the value.
    """
    name = name or str(value.name)
    step = add_initializer(graph, f"{name}_step", np.asarray(scale.step))
    zero = add_initializer(graph, f"{name}_zero", np.asarray(scale.zero))
    down = ir.node("QuantizeLinear", [value, step, zero], name=f"{name}_q")
    back = ir.node("DequantizeLinear", [down.outputs[0], step, zero], name=f"{name}_dq")
    set_type(down.outputs[0], ir.DataType.from_numpy(scale.zero.dtype), value.shape)
    set_type(back.outputs[0], ir.DataType.FLOAT, value.shape)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [down, back])
    else:
        graph.insert_after(producer, [down, back])
    return back.outputs[0]


def insert_weight(graph: ir.Graph, layer: Layer) -> ir.Value:
    """Round a layer's weight to an int8 initializer behind a DequantizeLinear; gives its output."""
    values, scales = round_channels(layer.weight, layer.axis)
    inputs = [
        add_initializer(graph, f"{layer.name}.int8", values),
        add_initializer(graph, f"{layer.name}.int8_scale", scales),
        add_initializer(graph, f"{layer.name}.int8_zero", np.zeros(len(scales), np.int8)),
    ]
    back = ir.node("DequantizeLinear", inputs, {"axis": layer.axis}, name=f"{layer.name}.dq")
    set_type(back.outputs[0], ir.DataType.FLOAT, ir.Shape(layer.weight.shape))
    graph.insert_before(layer.node, back)
    return back.outputs[0]


def _chosen(model: ir.Model, skip: frozenset[str], form: Form) -> tuple[Layer, ...]:
    fitting = (layer for layer in find_layers(model) if layer.kind in KINDS[form])
    return tuple(x for x in fitting if not {x.name, str(x.node.name)} & skip)


def _check(layers: tuple[Layer, ...], calibration: Calibration) -> None:
    unknown = [layer.name for layer in layers if layer.name not in calibration.inputs]
    if unknown:
        raise ExportError(
            f"the calibration knows nothing of {len(unknown)} layers ({', '.join(unknown[:3])}); "
            "calibrate on this graph, or on one with the same weights"
        )
    broken = [layer.name for layer in layers if not np.isfinite(layer.weight).all()]
    if broken:
        raise ExportError(f"the weight of {broken[0]} is not finite; keep this layer in FP32")


def _split_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Make a MatMul and an Add of a Gemm, whose FP32 bias would keep it from being an integer one.

    The MatMul takes over its name.
    """
    activation, weight, *rest = node.inputs
    bias = rest[0] if rest else None
    nodes = []
    if node.attributes.get_int("transB", 0):
        nodes.append(ir.node("Transpose", [weight], {"perm": [1, 0]}, name=f"{node.name}_weight"))
        weight = nodes[-1].outputs[0]
    name, old = node.name, node.outputs[0]
    node.name = f"{name}_gemm"
    nodes.append(ir.node("MatMul", [activation, weight], name=name))
    if bias is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias], name=f"{name}_bias"))
    new = nodes[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])


def _quantise_input(
    graph: ir.Graph, layer: Layer, scale: Scale, pairs: dict[ir.Value, ir.Value]
) -> None:
    """Let a layer take its input from a Q/DQ pair, which it shares with other layers."""
    value = layer.input
    if value not in pairs:
        pairs[value] = insert_pair(graph, value, scale)
    layer.node.replace_input_with(0, pairs[value])


def _quantise_output(
    graph: ir.Graph, layer: Layer, scale: Scale, pairs: dict[ir.Value, ir.Value]
) -> None:
    """Let everything behind a convolution take its output from a Q/DQ pair."""
    value = layer.output
    if value.is_graph_output():
        return
    if value not in pairs:
        pairs[value] = insert_pair(graph, value, scale)
    for node, index in tuple(value.uses()):
        if node.op_type != "QuantizeLinear":
            node.replace_input_with(index, pairs[value])
