"""Graphs in memory, run on ONNX Runtime's CPU: a model of any size, left as it is."""

from __future__ import annotations

import onnx_ir as ir

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.export.external import externalise
from samclip.runtime.bundles.weights import parse_weights

WEIGHTS = "weights.safetensors"


def graph_source(model: ir.Model) -> GraphSource:
    """Give a backend's view of a model with its weights inside, which may exceed 2 GiB."""
    file = "graph.onnx"
    graphs, weights = externalise({file: model.clone()}, WEIGHTS)
    name = str(model.graph.name)
    return GraphSource(name, graphs[file], parse_weights(weights), {WEIGHTS: weights})


def open_engine(model: ir.Model) -> Engine:
    """Load a model on ONNX Runtime's CPU; close the engine after use."""
    return get_backend("onnxruntime").load(graph_source(model), EngineOptions())
