"""Graphs of a bundle in reduced precision, as the exporter makes them, for builders of plans."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript.optimizer import fold_constants

from samclip.engines.base import GraphSource
from samclip.export.graph_files import externalise, internalise
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.precision.calibration import Calibration, Range
from samclip.export.precision.half import HalfPrecision, to_half
from samclip.export.precision.keep import DEFAULT_KEEP
from samclip.export.precision.layers import find_layers
from samclip.export.precision.quantise import quantise
from samclip.export.uint8_input import uint8_spec
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.bundles.weights import parse_weights

WEIGHTS = "weights.safetensors"
LIMIT = 2**30  # bytes: of no constant here


def full_model(source: GraphSource) -> ir.Model:
    """The FP32 graph of a source, weights inside; weights that are stored rounded are expanded."""
    model = internalise(source.onnx, source.weights)
    fold_constants(
        model, onnx_shape_inference=True, input_size_limit=LIMIT, output_size_limit=LIMIT
    )
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.RemoveUnusedNodesPass()(model)
    return model


def typed_source(name: str, model: ir.Model, precision: str) -> GraphSource:
    """An FP32 graph in a precision, with what the exporter keeps in FP32.

    In INT8 all activations have one made-up range: it builds as any other, its answers are of no
    use.
    """
    if precision.startswith("int8"):
        ranges = {layer.name: Range(low=-8.0, high=8.0) for layer in find_layers(model)}
        calibration = Calibration(method="minmax", photos=1, inputs=ranges, outputs=ranges)
        model = quantise(model, calibration)
    if precision not in {"fp32", "int8"}:
        dtype: HalfPrecision = "bf16" if precision == "bf16" else "fp16"
        model = to_half(model, dtype, DEFAULT_KEEP.nodes(name, model))
    return source_of(name, model, precision)


def uint8_encoder(side: int = 64) -> ir.Model:
    """The graph of a small convolution behind the normalisation of uint8 pixels."""
    torch.manual_seed(0)
    pixels = Preprocessing(
        image_size=side, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    inputs = {"image": torch.rand(1, 3, side, side)}
    spec = GraphSpec("encoder", torch.nn.Conv2d(3, 16, 3, padding=1), inputs, ("features",))
    return export_graph(uint8_spec(spec, pixels))


def source_of(name: str, model: ir.Model, precision: str) -> GraphSource:
    """A model as a bundle would hand it to a backend."""
    graphs, weights = externalise({"graph.onnx": model}, WEIGHTS)
    files = {WEIGHTS: weights}
    return GraphSource(
        name, graphs["graph.onnx"], parse_weights(weights), files, precision=precision
    )
