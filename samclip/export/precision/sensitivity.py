"""Sensitivity of each layer to INT8, and the search for the layers to leave out.

Every layer gets a quantised twin that takes the same FP32 input, all in one graph, so that a single
pass over a few photos measures the noise that each of them adds: the power of the twin's error over
that of the signal it joins, which behind a branch is the residual sum. Quantising one layer after
the other and comparing the graph's outputs would take a pass for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.precision.calibration import Calibration
from samclip.export.precision.graph_edits import set_type
from samclip.export.precision.layers import Kind, Layer
from samclip.export.precision.photos import checked_photos
from samclip.export.precision.quantise import (
    Form,
    insert_pair,
    insert_weight,
    make_scale,
    prepare_layers,
)

LARGEST_SHARE = 0.9  # of the layers that may be left out: beyond it INT8 is not worth its name
SILENCE = 1e-30  # power of a signal that is 0 everywhere
MOVES = ("Reshape", "Transpose", "Slice")  # operators between a layer and its residual sum


@dataclass(frozen=True)
class LayerNoise:
    """The noise that INT8 adds to the output of one layer, as a share of the signal's power."""

    layer: str
    noise: float
    kind: Kind


def measure_sensitivity(
    model: ir.Model,
    calibration: Calibration,
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
    form: Form = "symmetric",
) -> tuple[LayerNoise, ...]:
    """Measure every layer's noise in a float32 graph, weights inside, the worst layer first.

    Each feed, of which two or three suffice, costs about three runs of the graph. Raises
    CalibrationError when there are none, and ExportError as `quantise` does.
    """
    twins = model.clone()
    layers = prepare_layers(twins, calibration, form=form)
    outputs = [_add_twin(twins.graph, x, calibration, form) for x in layers]
    twins.graph.outputs.clear()
    for index, (error, signal) in enumerate(outputs):
        for kind, value in (("error", error), ("signal", signal)):
            value.name = f"{index}.{kind}"
            twins.graph.outputs.append(value)
    power = _sum_outputs(twins, feeds) if layers else {}
    noises = [
        LayerNoise(x.name, power[f"{i}.error"] / max(power[f"{i}.signal"], SILENCE), x.kind)
        for i, x in enumerate(layers)
    ]
    return tuple(sorted(noises, key=lambda x: -x.noise))


def fall_back(
    worst_first: Sequence[str],
    holds: Callable[[frozenset[str]], bool],
    most: int | None = None,
) -> frozenset[str]:
    """Find the fewest of the worst layers to leave out of INT8 so that `holds` is true.

    `holds` takes the layers left out (the `skip` of `quantise`) and judges the graph. It is called
    with 0, 1, 2, 4 ... layers and then, by bisection, between the last failure and the first
    success. Raises ExportError when it is false even with `most` layers left out; None stands for
    `LARGEST_SHARE` of them.
    """
    limit = int(LARGEST_SHARE * len(worst_first)) if most is None else min(most, len(worst_first))
    refused, count = -1, 0
    while not holds(frozenset(worst_first[:count])):
        if count >= limit:
            raise ExportError(
                f"INT8 fails even with {count} of {len(worst_first)} layers left out, the worst "
                f"of them {', '.join(worst_first[:3])}. Calibrate on more photos, by another "
                "method, or leave this precision out."
            )
        refused, count = count, min(limit, max(1, 2 * count))
    while count - refused > 1:
        middle = (refused + count) // 2
        if holds(frozenset(worst_first[:middle])):
            count = middle
        else:
            refused = middle
    return frozenset(worst_first[:count])


def _add_twin(
    graph: ir.Graph, layer: Layer, calibration: Calibration, form: Form
) -> tuple[ir.Value, ir.Value]:
    """Compute a layer once more, quantised; returns the power of its error and of the signal."""
    scale = make_scale(calibration.inputs[layer.name], form)
    inputs = [
        insert_pair(graph, layer.input, scale, f"{layer.name}.in"),
        insert_weight(graph, layer),
    ]
    output, signal = layer.output, joined_signal(layer)  # before anything else takes from them
    twin = _copy(graph, layer.node, [*inputs, *layer.node.inputs[2:]])
    rectifier = output.producer()
    if rectifier is not None and rectifier is not layer.node:
        twin = _copy(graph, rectifier, [twin, *rectifier.inputs[1:]])
    if form == "unsigned" and layer.kind != "linear":
        scale = make_scale(calibration.outputs[layer.name], form)
        twin = insert_pair(graph, twin, scale, f"{layer.name}.out")
    error = ir.node("Sub", [twin, output])
    powers = [
        ir.node("ReduceSumSquare", [value], {"keepdims": 0}) for value in (error.outputs[0], signal)
    ]
    graph.extend([error, *powers])
    for power in powers:
        set_type(power.outputs[0], ir.DataType.FLOAT, ir.Shape(()))
    return powers[0].outputs[0], powers[1].outputs[0]


def joined_signal(layer: Layer) -> ir.Value:
    """Return the residual sum that a layer's output leads to and nothing else, or the output."""
    value = layer.output
    while len(users := value.consumers()) == 1:
        node = users[0]
        if node.op_type == "Add":
            if not any(x is not None and x.is_initializer() for x in node.inputs):
                return node.outputs[0]
        elif node.op_type not in MOVES or node.inputs[0] is not value:
            break
        value = node.outputs[0]
    return layer.output


def _copy(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
    """Append a copy of a node with other inputs, and return its output."""
    copied = ir.Node(node.domain, node.op_type, inputs, [*node.attributes.values()])
    graph.append(copied)
    return copied.outputs[0]


def _sum_outputs(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, float]:
    """Run a graph on all feeds and add up its scalar outputs."""
    total: dict[str, float] = {}
    with closing(open_on_cpu(model)) as engine:
        for feed in checked_photos(feeds):
            found = engine.run({name: feed[name] for name in engine.input_names})
            for name, tensor in found.items():
                total[name] = total.get(name, 0.0) + float(tensor.numpy())
    return total
