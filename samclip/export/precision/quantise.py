"""INT8 for linear layers and convolutions of FP32 graphs, written as Q/DQ.

A `QuantizeLinear` / `DequantizeLinear` pair stands before every layer, and its weight becomes an
int8 initializer behind a `DequantizeLinear`: symmetric, a scale for each output channel, w ~ q * s
with s = max |w| / 127 (Krishnamoorthi, arXiv 1806.08342, sections 2.2 and 3.1.1). Backends fuse
the three into an integer layer; biases stay as they are, and so does the rest of the graph. Two
forms:

- `symmetric`: int8 activations with the zero point 0, only at the inputs of layers, so that sums
  and normalisations behind them get the accumulated values. TensorRT takes this form.
- `unsigned`: uint8 activations with a zero point, and convolutions' outputs too. CPUs multiply
  unsigned by signed numbers (VNNI), spend no bit on the sign of values that are never negative,
  rectify on the way, and ONNX Runtime has integer convolutions only where the output is quantised
  as well.

Depthwise convolutions stay out of the symmetric form: each of their outputs sums up a few products,
which no tensor core speeds up, and TensorRT for RTX makes far larger plans of them (samclip-tiny's
encoder, with its 54: 251 MB against 33). CPUs take them.

Two rewrites keep ONNX Runtime's optimiser from rounding layers that are left out, and from
undoing layers that are quantised. Both were found in version 1.31, by comparing results with and
without its optimisations.
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
from samclip.export.precision.graph_edits import add_initializer, insert_behind, set_type
from samclip.export.precision.layers import Kind, Layer, find_layers

Form = Literal["symmetric", "unsigned"]
Array = NDArray[np.generic]

KINDS: dict[Form, frozenset[Kind]] = {
    "symmetric": frozenset({"linear", "conv"}),
    "unsigned": frozenset({"linear", "conv", "depthwise"}),
}
LARGEST = 127  # -128 is left out: the range is symmetric
STEPS = 255  # of an unsigned byte
MIN_APART = 3  # axes of a product whose bias can be kept out of a Gemm


@dataclass(frozen=True)
class Scale:
    """The quantisation of an activation: x ~ (q - `zero`) * `step`; `zero` is int8 or uint8."""

    step: np.float32
    zero: Array


def quantise(
    model: ir.Model,
    calibration: Calibration,
    skip: frozenset[str] = frozenset(),
    form: Form = "symmetric",
) -> ir.Model:
    """Return a copy of a float32 graph, weights inside, with its layers in INT8.

    `skip` names layers, or their nodes, that stay FP32, as depthwise ones do in the symmetric form.
    Raises ExportError for a layer that the calibration does not know, and for weights that are not
    finite.
    """
    model = model.clone()
    layers = prepare_layers(model, calibration, skip, form)
    pairs: dict[ir.Value, ir.Value] = {}
    if form == "unsigned":
        _guard_skipped(model, layers, calibration)
    for layer in layers:
        value = layer.input
        if value not in pairs:  # layers share the pair of an input that they have in common
            scale = make_scale(calibration.inputs[layer.name], form)
            pairs[value] = insert_pair(model.graph, value, scale)
        layer.node.replace_input_with(0, pairs[value])
        layer.node.replace_input_with(1, insert_weight(model.graph, layer))
    if form == "unsigned":
        for layer in layers:
            if layer.kind == "linear":
                _keep_bias_apart(model.graph, layer)
            else:
                scale = make_scale(calibration.outputs[layer.name], form)
                _quantise_output(model.graph, layer, scale, pairs)
    return RemoveUnusedNodesPass()(model).model


def prepare_layers(
    model: ir.Model,
    calibration: Calibration,
    skip: frozenset[str] = frozenset(),
    form: Form = "symmetric",
) -> tuple[Layer, ...]:
    """Return the layers to quantise in a form; every Gemm among them is split, in place.

    Raises ExportError for a layer that cannot be quantised.
    """
    for layer in _select_layers(model, skip, form):
        if layer.node.op_type == "Gemm":
            _split_gemm(model.graph, layer.node)
    layers = _select_layers(model, skip, form)
    unknown = [layer.name for layer in layers if layer.name not in calibration.inputs]
    if unknown:
        raise ExportError(
            f"the calibration knows nothing of {len(unknown)} layers ({', '.join(unknown[:3])}); "
            "calibrate on this graph, or on one with the same weights"
        )
    broken = [layer.name for layer in layers if not np.isfinite(layer.weight).all()]
    if broken:
        raise ExportError(f"the weight of {broken[0]} is not finite; keep this layer in FP32")
    return layers


def _select_layers(model: ir.Model, skip: frozenset[str], form: Form) -> tuple[Layer, ...]:
    fitting = (layer for layer in find_layers(model) if layer.kind in KINDS[form])
    return tuple(x for x in fitting if not {x.name, str(x.node.name)} & skip)


def _split_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a Gemm, which cannot be an integer product with an FP32 bias, by MatMul and Add.

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


def make_scale(span: Range, form: Form) -> Scale:
    """Divide a range into the steps of a byte; 0 is always one of them, because of padding."""
    if form == "symmetric":
        bound = max(-span.low, span.high)
        return Scale(np.float32(bound / LARGEST if bound > 0 else 1.0), np.int8(0))
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    step = np.float32((high - low) / STEPS if high > low else 1.0)
    return Scale(step, np.uint8(np.clip(np.rint(-low / step), 0, STEPS)))


def round_channels(weight: NDArray[np.float32], axis: int) -> tuple[Array, NDArray[np.float32]]:
    """Round a weight to int8 with a scale for each channel along `axis`; returns values, scales."""
    summed = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=summed, keepdims=True)
    scale = np.where(peak > 0, peak / LARGEST, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale.reshape(-1)


def insert_pair(
    graph: ir.Graph, value: ir.Value, scale: Scale, name: str | None = None
) -> ir.Value:
    """Put a Q/DQ pair right behind the node that makes a value, and return the pair's result.

    The nodes and their constants are named after `name`; None stands for the value's own name.
    """
    name = name or str(value.name)
    step = add_initializer(graph, f"{name}_step", np.asarray(scale.step))
    zero = add_initializer(graph, f"{name}_zero", np.asarray(scale.zero))
    down = ir.node("QuantizeLinear", [value, step, zero], name=f"{name}_q")
    back = ir.node("DequantizeLinear", [down.outputs[0], step, zero], name=f"{name}_dq")
    set_type(down.outputs[0], ir.DataType.from_numpy(scale.zero.dtype), value.shape)
    set_type(back.outputs[0], ir.DataType.FLOAT, value.shape)
    insert_behind(graph, value, [down, back])
    return back.outputs[0]


def insert_weight(graph: ir.Graph, layer: Layer) -> ir.Value:
    """Add a layer's weight as int8 behind a DequantizeLinear, and return the node's output."""
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


def _quantise_output(
    graph: ir.Graph, layer: Layer, scale: Scale, pairs: dict[ir.Value, ir.Value]
) -> None:
    """Let all readers of a convolution's output take it from a Q/DQ pair."""
    value = layer.output
    if value.is_graph_output():
        return
    if value not in pairs:
        pairs[value] = insert_pair(graph, value, scale)
    for node, index in tuple(value.uses()):
        if node.op_type != "QuantizeLinear":
            node.replace_input_with(index, pairs[value])


def _guard_skipped(model: ir.Model, layers: tuple[Layer, ...], calibration: Calibration) -> None:
    """Protect the convolutions that are not among the `layers` to quantise from being rounded.

    ONNX Runtime rounds the weight of every convolution that has a Q/DQ pair before it and one
    behind it or behind its rectifiers, with one scale for all channels: EfficientNet's features
    fell from a cosine of 0.99 to 0.78. So a Max with the lower end of the range, where the pair
    clips anyway, is put between the convolution and the pair.
    """
    chosen = {layer.node for layer in layers}
    for skipped in find_layers(model):
        if skipped.node in chosen or skipped.kind == "linear":
            continue
        value = skipped.output
        readers = [layer for layer in layers if layer.input is value]
        if readers:
            span = calibration.inputs[readers[0].name]
            guarded = _insert_max(model.graph, value, span, readers[0].node)
            for layer in readers:
                layer.node.replace_input_with(0, guarded)


def _insert_max(graph: ir.Graph, value: ir.Value, span: Range, before: ir.Node) -> ir.Value:
    low = np.asarray(min(span.low, 0.0), np.float32)
    bound = add_initializer(graph, f"{value.name}_low", low)
    node = ir.node("Max", [value, bound], name=f"{value.name}_guard")
    node.outputs[0].name = f"{value.name}_guarded"
    set_type(node.outputs[0], ir.DataType.FLOAT, value.shape)
    graph.insert_before(before, node)
    return node.outputs[0]


def _keep_bias_apart(graph: ir.Graph, layer: Layer) -> None:
    """Reshape a linear layer's bias to as many axes as its output has.

    ONNX Runtime fuses a MatMul and an added vector to a Gemm, before it looks for integer products,
    and a Gemm with an FP32 bias cannot be one.
    """
    product = layer.node.outputs[0]
    users = product.consumers()
    rank = 0 if product.shape is None else product.shape.rank()
    if len(users) != 1 or users[0].op_type != "Add" or rank < MIN_APART:
        return
    for index, bias in enumerate(users[0].inputs):
        if bias is not None and bias.is_initializer() and bias.const_value is not None:
            wide = bias.const_value.numpy().reshape((1,) * (rank - 1) + (-1,))
            apart = add_initializer(graph, f"{layer.name}.wide_bias", wide)
            users[0].replace_input_with(index, apart)
