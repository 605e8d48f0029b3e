"""The files of the bundle's graphs, and the manifest entries that describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from samclip.engines.base import GraphSource
from samclip.errors import ExportError
from samclip.export.external import externalise
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.attention import Lowering
from samclip.export.options import LOWERINGS_BY_BACKEND, Precision, backends_for
from samclip.runtime.bundles.manifest import Graph, TensorSpec, Variant
from samclip.runtime.bundles.weights import parse_weights

DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.BOOL: "bool",
}


@dataclass(frozen=True)
class GraphFiles:
    """One graph, written: its manifest entry and its files by name."""

    name: str
    graph: Graph
    files: Mapping[str, bytes]

    def sources(self) -> list[tuple[str, GraphSource]]:
        """Every variant with its label, ready for a backend."""
        return [
            (variant.attention or variant.precision, self._source(variant))
            for variant in self.graph.variants
        ]

    def _source(self, variant: Variant) -> GraphSource:
        shared = {variant.weights: self.files[variant.weights]} if variant.weights else {}
        weights = {n: w for data in shared.values() for n, w in parse_weights(data).items()}
        return GraphSource(self.name, self.files[variant.file], weights, shared)


def write_graph(
    name: str,
    spec: Callable[[Lowering], GraphSpec],
    lowerings: Sequence[Lowering],
    opset: int,
    precision: Precision,
) -> GraphFiles:
    """Export a graph with relative-position attention, once per lowering, on one weights file.

    The first lowering's file is `<name>.onnx`, the others' `<name>.<lowering>.onnx`.
    """
    forms = tuple(lowerings)
    models: dict[str, ir.Model] = {}
    variants = []
    for form in forms:
        file = f"{name}.onnx" if form == forms[0] else f"{name}.{form}.onnx"
        models[file] = export_graph(spec(form), opset)
        variants.append((file, form, backends_for(form, forms)))
    return _files(name, models, variants, opset, precision)


def write_plain_graph(name: str, spec: GraphSpec, opset: int, precision: Precision) -> GraphFiles:
    """Export a graph that has no relative-position attention: one variant for every backend."""
    models = {f"{name}.onnx": export_graph(spec, opset)}
    variants = [(f"{name}.onnx", None, tuple(LOWERINGS_BY_BACKEND))]
    return _files(name, models, variants, opset, precision)


def _files(
    name: str,
    models: Mapping[str, ir.Model],
    variants: Sequence[tuple[str, Lowering | None, tuple[str, ...]]],
    opset: int,
    precision: Precision,
) -> GraphFiles:
    first = next(iter(models.values()))
    inputs = tuple(_tensor(value) for value in first.graph.inputs)
    outputs = tuple(_tensor(value) for value in first.graph.outputs)
    weights_file = f"{name}.safetensors"
    graphs, weights = externalise(models, weights_file)
    graph = Graph(
        inputs=inputs,
        outputs=outputs,
        variants=tuple(
            Variant(
                file=file,
                weights=weights_file,
                precision=precision,
                attention=form,
                opset=opset,
                backends=backends,
            )
            for file, form, backends in variants
        ),
    )
    return GraphFiles(name, graph, {**graphs, weights_file: weights})


def _tensor(value: ir.Value) -> TensorSpec:
    if value.name is None or value.shape is None or value.dtype not in DTYPES:
        raise ExportError(f"the exporter left {value.name} without a usable type and shape")
    shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name=value.name, dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]
