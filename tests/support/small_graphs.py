"""Small graphs with weights files, as the exporter leaves them, written by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from samclip.export.graph_files import DTYPES, GraphFiles, externalise
from samclip.runtime.bundles.manifest import Graph, TensorSpec, Variant

Shapes = Mapping[str, tuple[int | str, ...]]
OPSET = 20


def small_graph(
    name: str,
    nodes: list[NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    weights: Mapping[str, NDArray[np.generic]],
) -> ir.Model:
    """One graph; inputs called `ids...` are int64, all other tensors float32."""
    infos = [
        [
            helper.make_tensor_value_info(key, 7 if key.startswith("ids") else 1, shape)
            for key, shape in shapes.items()
        ]
        for shapes in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, *infos, tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def graph_files(name: str, *models: ir.Model) -> GraphFiles:
    """The files of one graph, a variant for each model."""
    location = f"{name}.safetensors"
    graphs, weights = externalise({f"{name}.{i}.onnx": m for i, m in enumerate(models)}, location)
    variants = tuple(
        Variant(file=file, weights=location, opset=OPSET, backends=("onnxruntime",))
        for file in graphs
    )
    ports = (models[0].graph.inputs, models[0].graph.outputs)
    inputs, outputs = (tuple(map(_spec, values)) for values in ports)
    graph = Graph(inputs=inputs, outputs=outputs, variants=variants)
    return GraphFiles(name, graph, {**graphs, location: weights})


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name=str(value.name), dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]
