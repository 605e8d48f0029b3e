"""Graphs as a bundle holds them: ONNX files of all variants, and a weights file that they share.

Large initializers of a graph's variants lie in one safetensors file. It is ONNX external data as
well (every tensor has an offset and a length in it), so the runtime can hand its verified bytes to
a backend without parsing ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
from msgspec.structs import replace
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.errors import ExportError
from samclip.export.options import FUSED
from samclip.runtime.bundles.manifest import (
    Graph,
    Graphs,
    Manifest,
    Precision,
    ShapedGraphs,
    TensorSpec,
    Variant,
    base_name,
)
from samclip.runtime.bundles.weights import parse_weights, serialise_weights, weight_offsets

Array = NDArray[np.generic]

MIN_EXTERNAL_BYTES = 1024  # smaller tensors (shapes, scalars, biases of norms) stay in the graph
DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.UINT8: "uint8",
    ir.DataType.BOOL: "bool",
}


@dataclass(frozen=True)
class GraphFiles:
    """One graph: its manifest entry and its files by name."""

    name: str
    graph: Graph
    files: Mapping[str, bytes]

    def models(self, precision: Precision | None = "fp32") -> dict[str, ir.Model]:
        """Open the variants of one precision, None for all, with their weights inside, by file."""
        return {
            variant.file: internalise(self.files[variant.file], self._weights(variant))
            for variant in self.graph.variants
            if precision is None or variant.precision == precision
        }

    def sources(self) -> list[tuple[str, GraphSource]]:
        """Return every variant, ready for a backend, with its label."""
        found: list[tuple[str, GraphSource]] = []
        for variant in self.graph.variants:
            shared = {variant.weights: self.files[variant.weights]} if variant.weights else {}
            onnx_file, weights = self.files[variant.file], self._weights(variant)
            source = GraphSource(self.name, onnx_file, weights, shared)
            found.append((variant.attention or variant.precision, source))
        return found

    def without_inner_shapes(self) -> GraphFiles:
        """Return the graph without the shapes of its inner values, a fifth of an ONNX file.

        Backends infer them when they load a graph; so does who edits it, by ShapeInferencePass.
        """
        files = dict(self.files)
        for variant in self.graph.variants:
            model = onnx.load_from_string(files[variant.file])
            del model.graph.value_info[:]
            files[variant.file] = model.SerializeToString(deterministic=True)
        return GraphFiles(self.name, self.graph, files)

    def _weights(self, variant: Variant) -> dict[str, Array]:
        return parse_weights(self.files[variant.weights]) if variant.weights else {}

    def with_models(self, models: Mapping[Variant, ir.Model]) -> GraphFiles:
        """Return the graph with these variants instead of those that it has.

        `models` have their weights inside and are changed here; their variants name one weights
        file.
        """
        location = next(variant.weights for variant in models if variant.weights)
        graphs, weights = externalise({v.file: model for v, model in models.items()}, location)
        variants = tuple(replace(v, opset=model.opset_imports[""]) for v, model in models.items())
        graph = replace(self.graph, variants=variants)
        return GraphFiles(self.name, graph, {**graphs, location: weights})


def pack_graph(name: str, models: Mapping[Variant, ir.Model]) -> GraphFiles:
    """Return a graph of these variants, whose inputs and outputs are those of the first one."""
    first = next(iter(models.values())).graph
    inputs = tuple(_tensor_spec(value) for value in first.inputs)
    outputs = tuple(_tensor_spec(value) for value in first.outputs)
    return GraphFiles(name, Graph(inputs=inputs, outputs=outputs, variants=()), {}).with_models(
        models
    )


def described(graphs: Sequence[GraphFiles]) -> Graphs:
    """Return the manifest's entries of graphs, those of the first shape."""
    first = [files for files in graphs if base_name(files.name) == files.name]
    return Graphs(**{files.name: files.graph for files in first})


def with_graphs(manifest: Manifest, graphs: Sequence[GraphFiles]) -> Manifest:
    """Return a manifest whose entries of graphs, for every shape, are these."""
    shaped: dict[str, dict[str, Graph]] = {}
    for files in graphs:
        if (base := base_name(files.name)) != files.name:
            shaped.setdefault(files.name.removeprefix(f"{base}-"), {})[base] = files.graph
    shapes = tuple(
        ShapedGraphs(canvas=(int(height), int(width)), **found)
        for (height, width), found in ((size.split("x"), found) for size, found in shaped.items())
    )
    return replace(manifest, graphs=described(graphs), shapes=shapes or msgspec.UNSET)


def with_variants(files: GraphFiles, added: Mapping[Variant, ir.Model]) -> GraphFiles:
    """Return the graph with further variants before those that it has, on one weights file.

    `added` are models with their weights inside, which are changed here; their variants name the
    weights file of `files`.
    """
    if not added or files.graph.variants[0].weights is None:
        return files
    models = files.models(None)
    return files.with_models(
        {**added, **{variant: models[variant.file] for variant in files.graph.variants}}
    )


def without_unused(files: GraphFiles) -> GraphFiles:
    """Leave out FP32 graphs of `fused`, which no backend runs: variants were made from them."""
    variants = tuple(v for v in files.graph.variants if v.backends or v.attention != FUSED)
    kept = {name for v in variants for name in (v.file, v.weights)}
    contents = {name: data for name, data in files.files.items() if name in kept}
    return GraphFiles(files.name, replace(files.graph, variants=variants), contents)


def _tensor_spec(value: ir.Value) -> TensorSpec:
    if value.name is None or value.shape is None or value.dtype not in DTYPES:
        raise ExportError(
            f"torch's exporter left the tensor {value.name} without a type or shape that a bundle "
            "can hold. Try another --opset, or another version of torch."
        )
    shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name=value.name, dtype=DTYPES[value.dtype], shape=shape)  # type: ignore[arg-type]


def externalise(variants: Mapping[str, ir.Model], location: str) -> tuple[dict[str, bytes], bytes]:
    """Split ONNX models into small graph files and one weights file.

    `variants` maps file names to models, `location` is the name of the weights file in the same
    folder. Tensors of equal dtype, shape and content are stored once and get one name in all
    variants. Returns the serialised graphs by file name, and the weights file.
    """
    names: dict[str, str] = {}
    arrays: dict[str, Array] = {}
    for model in variants.values():
        _share_initializers(model, names, arrays)
    weights = serialise_weights(arrays)
    offsets = weight_offsets(weights)
    graphs = {}
    for file, model in variants.items():
        for name, value in model.graph.initializers.items():
            if name in offsets:
                offset, length = offsets[name]
                tensor = _const_value(value)
                value.const_value = ir.ExternalTensor(
                    location,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=name,
                )
        graphs[file] = ir.to_proto(model).SerializeToString(deterministic=True)
    return graphs, weights


def internalise(graph: bytes, weights: Mapping[str, Array]) -> ir.Model:
    """Undo `externalise` for one graph: parse its file and put the shared weights, by name, in."""
    model = ir.serde.deserialize_model(onnx.load_from_string(graph))
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(weights[name], name=name)
    return model


def _share_initializers(model: ir.Model, names: dict[str, str], arrays: dict[str, Array]) -> None:
    """Rename every large initializer of a graph to the one name of its content in all variants.

    `names` (by content) and `arrays` (by name) hold those of earlier variants; new ones are added.
    """
    initializers = model.graph.initializers
    contents = [
        (value, np.ascontiguousarray(_const_value(value).numpy()))
        for value in initializers.values()
    ]
    large = [(value, array) for value, array in contents if array.nbytes >= MIN_EXTERNAL_BYTES]
    for value, _ in large:
        del initializers[str(value.name)]
    small = set(initializers)
    for value, array in large:
        name = _shared_name(str(value.name), array, names, arrays)
        if name in small:
            raise ExportError(
                f"two weights of one graph would be called {name}: a defect of samclip, report it"
            )
        if name in initializers:  # the same content twice in one graph: keep one
            ir.convenience.replace_all_uses_with(value, initializers[name])
        else:
            value.name = name
            initializers[name] = value


def _const_value(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ExportError(f"the weight {value.name} has no value: a defect of samclip, report it")
    return value.const_value


def _shared_name(name: str, array: Array, names: dict[str, str], arrays: dict[str, Array]) -> str:
    """Return the name of a content, choosing one if it is new: a parameter's own, if that is free.

    The exporter's constants, whose names have no dots, are named by a hash of their type, shape and
    content: the same numbers may be there in two shapes.
    """
    key = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
    if key not in names:
        wanted = name if "." in name else "constant"
        free = wanted != "constant" and wanted not in arrays
        names[key] = wanted if free else f"{wanted}.{key[:16]}"
        arrays[names[key]] = array
    return names[key]
