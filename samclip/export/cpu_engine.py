"""Graphs on ONNX Runtime's CPU, on which an export measures and judges what it makes."""

from __future__ import annotations

import onnx_ir as ir

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.export.graph_files import externalise
from samclip.runtime.bundles.weights import parse_weights

GRAPH, WEIGHTS = "graph.onnx", "weights.safetensors"


def open_on_cpu(graph: GraphSource | ir.Model) -> Engine:
    """Load a graph with default options; close the engine after use.

    A model has its weights inside and is left as it is.
    """
    source = graph if isinstance(graph, GraphSource) else graph_source(graph)
    return CPU.load(source, EngineOptions())


def graph_source(model: ir.Model) -> GraphSource:
    """Return a model, weights inside, as backends take it; it may exceed protobuf's 2 GiB."""
    graphs, weights = externalise({GRAPH: model.clone()}, WEIGHTS)
    name = str(model.graph.name)
    return GraphSource(name, graphs[GRAPH], parse_weights(weights), {WEIGHTS: weights})
