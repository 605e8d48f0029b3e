"""The files of the bundle's graphs, and the manifest entries that describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.errors import ExportError
from samclip.export.graphs import GraphSpec, export_graph, externalise, internalise
from samclip.export.models.attention import Lowering, distinct_lowerings
from samclip.export.options import EXPORT_BACKENDS, FUSED, LOWERINGS_BY_BACKEND, backends_for
from samclip.runtime.bundles.manifest import (
    Graph,
    Graphs,
    LibraryNeed,
    Precision,
    TensorSpec,
    Variant,
)
from samclip.runtime.bundles.weights import parse_weights

DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.BOOL: "bool",
}


# What the operator `Attention` needs.
ATTENTION_OPSET = 23
ATTENTION_NEEDS = tuple(
    LibraryNeed(backend=backend.name, version=backend.traits.fused_attention)
    for backend in EXPORT_BACKENDS
    if backend.traits.fused_attention is not None
)


@dataclass(frozen=True)
class GraphFiles:
    """One graph, written: its manifest entry and its files by name."""

    name: str
    graph: Graph
    files: Mapping[str, bytes]

    def models(self, precision: Precision = "fp32") -> dict[str, ir.Model]:
        """Open the variants of one precision, their weights inside, by file."""
        chosen = [v for v in self.graph.variants if v.precision == precision]
        return {v.file: internalise(self.files[v.file], self._weights(v)) for v in chosen}

    def sources(self) -> list[tuple[str, GraphSource]]:
        """Every variant with its label, ready for a backend."""
        return [
            (variant.attention or variant.precision, self._source(variant))
            for variant in self.graph.variants
        ]

    def _source(self, variant: Variant) -> GraphSource:
        shared = {variant.weights: self.files[variant.weights]} if variant.weights else {}
        return GraphSource(self.name, self.files[variant.file], self._weights(variant), shared)

    def _weights(self, variant: Variant) -> dict[str, NDArray[np.generic]]:
        return parse_weights(self.files[variant.weights]) if variant.weights else {}


def write_graph(
    name: str,
    spec: Callable[[Lowering], GraphSpec],
    lowerings: Sequence[Lowering],
    opset: int,
) -> GraphFiles:
    """Export a graph with relative-position attention, once per lowering, on one weights file.

    The first lowering's file is `<name>.onnx`, the others' `<name>.<lowering>.onnx`. `fused` has
    at least the opset that it needs; `wide` is left out where it is the same as `chunk`.
    """
    specs = {lowerings[0]: spec(lowerings[0])}  # each a copy of the weights
    forms = distinct_lowerings(specs[lowerings[0]].module, lowerings)
    models: dict[str, ir.Model] = {}
    variants = []
    for form in forms:
        file = f"{name}.onnx" if form == forms[0] else f"{name}.{form}.onnx"
        told = specs.pop(form) if form in specs else spec(form)
        models[file] = export_graph(told, _opset_of(form, opset))
        variants.append((file, form, backends_for(form, forms)))
    return _files(name, models, variants)


def _opset_of(lowering: Lowering, opset: int) -> int:
    return max(opset, ATTENTION_OPSET) if lowering == FUSED else opset


def write_plain_graph(name: str, spec: GraphSpec, opset: int) -> GraphFiles:
    """Export a graph that has no relative-position attention: one variant for every backend."""
    models = {f"{name}.onnx": export_graph(spec, opset)}
    variants = [(f"{name}.onnx", None, tuple(LOWERINGS_BY_BACKEND))]
    return _files(name, models, variants)


def _files(
    name: str,
    models: Mapping[str, ir.Model],
    variants: Sequence[tuple[str, Lowering | None, tuple[str, ...]]],
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
                attention=form,
                opset=_opset(models[file]),
                backends=backends,
                needs=_needs(models[file]),
            )
            for file, form, backends in variants
        ),
    )
    return GraphFiles(name, graph, {**graphs, weights_file: weights})


def described(graphs: Sequence[GraphFiles]) -> Graphs:
    """Give the manifest's entries of graphs."""
    return Graphs(**{files.name: files.graph for files in graphs})


def with_variants(files: GraphFiles, added: Mapping[Variant, ir.Model]) -> GraphFiles:
    """Give the same graph with further variants before those that it has, on one weights file.

    `added` are models with their weights inside, which are changed here; their variants name the
    weights file of `files`.
    """
    location = files.graph.variants[0].weights
    if not added or location is None:
        return files
    models = {v.file: model for v, model in added.items()}
    own = parse_weights(files.files[location])
    models |= {v.file: internalise(files.files[v.file], own) for v in files.graph.variants}
    graphs, weights = externalise(models, location)
    described = [replace(v, opset=_opset(model)) for v, model in added.items()]
    graph = replace(files.graph, variants=(*described, *files.graph.variants))
    return GraphFiles(files.name, graph, {**graphs, location: weights})


def without_unused(files: GraphFiles) -> GraphFiles:
    """Leave out FP32 graphs of `fused`, which are for no backend: others were made from them."""
    variants = tuple(v for v in files.graph.variants if v.backends or v.attention != FUSED)
    kept = {name for v in variants for name in (v.file, v.weights)}
    contents = {name: data for name, data in files.files.items() if name in kept}
    return GraphFiles(files.name, replace(files.graph, variants=variants), contents)


def _needs(model: ir.Model) -> tuple[LibraryNeed, ...]:
    """Say what reads a graph only from some version on."""
    return ATTENTION_NEEDS if any(n.op_type == "Attention" for n in model.graph) else ()


def _opset(model: ir.Model) -> int:
    return int(model.opset_imports[""])


def _tensor(value: ir.Value) -> TensorSpec:
    if value.name is None or value.shape is None or value.dtype not in DTYPES:
        raise ExportError(
            f"torch's exporter left the tensor {value.name} without a type or shape that a bundle "
            "can hold. Try another --opset, or another version of torch."
        )
    shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name=value.name, dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]
