"""SmoothQuant: part of the activations' range moves into the weights, so that INT8 loses less.

Xiao et al., arXiv 2211.10438, equation 4: the input of a linear layer is divided by s and the rows
of its weight are multiplied by it, channel by channel, with

    s = max |x| ^ alpha / max |W| ^ (1 - alpha)

The division is folded into the LayerNormalization that the layer's input comes from; layers with
another input keep their range. Every s is rounded to a power of two, which changes no digit of a
product: in FP32 the graph's results stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from samclip.errors import ExportError
from samclip.export.precision.graph_edits import add_initializer
from samclip.export.precision.layers import Layer, find_layers
from samclip.export.precision.photos import checked_photos
from samclip.export.precision.tensor_statistics import observe

Floats = NDArray[np.float32]

DEFAULT_ALPHA = 0.5
SMALLEST = 1e-5  # lower bound of a channel's largest magnitude: dead channels need a factor too


@dataclass(frozen=True)
class NormGroup:
    """A LayerNormalization and the linear layers that read its output; nothing else reads it."""

    norm: ir.Node
    layers: tuple[Layer, ...]


def equalise(
    model: ir.Model,
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
    alpha: float = DEFAULT_ALPHA,
) -> ir.Model:
    """Return a copy of a float32 graph, weights inside, with evener ranges and the same results.

    `alpha` in [0, 1] is the share of the range that moves into the weights. Raises ExportError for
    an alpha outside, CalibrationError when there are no feeds or when they do not look like photos.
    """
    if not 0 <= alpha <= 1:
        raise ExportError(f"equalisation takes an alpha between 0 and 1, not {alpha:g}")
    model = model.clone()
    groups = find_groups(model)
    peaks = _channel_peaks(model, groups, feeds)
    for group, peak in zip(groups, peaks, strict=True):
        _fold(model.graph, group, factors(peak, [x.weight for x in group.layers], alpha))
    return RemoveUnusedNodesPass()(model).model


def find_groups(model: ir.Model) -> tuple[NormGroup, ...]:
    """Find the normalisations whose output only linear layers read, in the graph's order."""
    linear = {layer.node: layer for layer in find_layers(model) if layer.kind == "linear"}
    groups = []
    for node in model.graph:
        if node.op_type == "LayerNormalization" and _scales_last_axis(node):
            users = _users(node.outputs[0])
            if users and all(user in linear for user in users):
                groups.append(NormGroup(node, tuple(linear[user] for user in users if user)))
    return tuple(groups)


def factors(peak: Floats, weights: list[Floats], alpha: float) -> Floats:
    """Compute the divisors of K channels: powers of two.

    `peak` holds each channel's largest magnitude, K; `weights` are KxN.
    """
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    share = np.maximum(peak, SMALLEST) ** alpha / np.maximum(rows, SMALLEST) ** (1 - alpha)
    powers: Floats = np.exp2(np.rint(np.log2(share))).astype(np.float32)
    return powers


def _scales_last_axis(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    axis = node.attributes.get_int("axis", -1)
    last = -1 if shape is None else shape.rank() - 1
    parameters = node.inputs[1:]
    return axis in {-1, last} and all(
        x is not None and x.is_initializer() and x.const_value is not None for x in parameters
    )


def _users(value: ir.Value) -> list[ir.Node | None]:
    """List the nodes that read a value, also behind nodes that keep its last axis as it is.

    None stands for a use that cannot be followed.
    """
    if value.is_graph_output():
        return [None]
    found: list[ir.Node | None] = []
    for node, index in value.uses():
        if index == 0 and _keeps_last_axis(node):
            found += _users(node.outputs[0])
        else:
            found.append(node if index == 0 else None)
    return found


def _keeps_last_axis(node: ir.Node) -> bool:
    before = node.inputs[0].shape if node.inputs[0] is not None else None
    after = node.outputs[0].shape
    if before is None or after is None or before.rank() == 0 or after.rank() == 0:
        return False
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", ())
        return bool(order) and order[-1] == len(order) - 1
    return node.op_type in {"Reshape", "Pad"} and before[-1] == after[-1]


def _channel_peaks(
    model: ir.Model,
    groups: tuple[NormGroup, ...],
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
) -> list[Floats]:
    """Find each channel's largest magnitude behind every normalisation, over all feeds."""
    names = [str(group.norm.outputs[0].name) for group in groups]
    if not names:
        return []
    peaks: list[Floats] = []
    for found in observe(model, names, ("channels",), checked_photos(feeds)):
        now = [np.asarray(found[name, "channels"], np.float32) for name in names]
        peaks = [np.maximum(a, b) for a, b in zip(peaks or now, now, strict=True)]
    return peaks


def _fold(graph: ir.Graph, group: NormGroup, divisor: Floats) -> None:
    """Divide a normalisation's scale and bias, and multiply the rows of the weights behind it."""
    name = str(group.norm.name)
    for index, kind in enumerate(("scale", "bias")[: len(group.norm.inputs) - 1], start=1):
        old = group.norm.inputs[index]
        if old is not None and old.const_value is not None:
            array = np.asarray(old.const_value.numpy() / divisor, np.float32)
            _replace_constant(graph, group.norm, index, array, f"{name}.{kind}")
    for layer in group.layers:
        weight = layer.weight * divisor[:, None]
        transposed = layer.node.attributes.get_int("transB", 0)
        _replace_constant(
            graph, layer.node, 1, weight.T if transposed else weight, f"{layer.name}.weight"
        )


def _replace_constant(graph: ir.Graph, node: ir.Node, index: int, array: Floats, name: str) -> None:
    """Replace one of a node's constants, which other nodes may share, by another for it alone."""
    old = node.inputs[index]
    node.replace_input_with(index, None)
    if old is not None and old.is_initializer() and not old.uses():
        del graph.initializers[str(old.name)]
    name = f"equalised.{name}" if name in graph.initializers else name
    constant = add_initializer(graph, name, np.ascontiguousarray(array, np.float32))
    node.replace_input_with(index, constant)
