"""From a torch module to a clean ONNX graph: one function, and what each of the four graphs takes.

Exported with torch's dynamo exporter, which keeps `LayerNormalization` whole; metadata that names
the exporting machine's files is stripped.

Large initializers of one graph's variants, moved into one shared safetensors file.

The file is at once ONNX external data (every tensor has an offset and a length in it) and a
safetensors file, so the runtime can hand its verified bytes to a backend without parsing ONNX.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samclip.errors import ExportError
from samclip.runtime.bundles.weights import serialise_weights, weight_offsets

MIN_OPSET = 18  # the dynamo exporter's floor; LayerNormalization exists from 17 on
MAX_OPSET = 23
OTHER_WAYS = "Try another --opset or --attention, or the version of torch in constraints.txt"
DEFAULT_OPSET = 20  # has Gelu as one operator, and JetPack 6's TensorRT 10.3 still reads it


@dataclass(frozen=True)
class GraphSpec:
    """A module to export: example `inputs` by name, `outputs` in order, `dynamic` axes by input."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def export_graph(spec: GraphSpec, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Export `spec` as ONNX with all weights inside; raises ExportError when torch cannot."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} was asked for; {MIN_OPSET} to {MAX_OPSET} are supported")
    dims = {
        name: torch.export.Dim(name) for axes in spec.dynamic.values() for name in axes.values()
    }
    shapes = tuple(
        {axis: dims[name] for axis, name in spec.dynamic.get(key, {}).items()}
        for key in spec.inputs
    )
    try:
        with _quiet():
            program = torch.onnx.export(
                spec.module.eval(),
                tuple(spec.inputs.values()),
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                opset_version=opset,
                dynamic_shapes=shapes if spec.dynamic else None,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"torch could not export the {spec.name}: {error}. {OTHER_WAYS}"
        ) from error
    if program is None:
        raise ExportError(f"torch exported nothing for the {spec.name}. {OTHER_WAYS}")
    return _clean(program.model, spec.name)


def _clean(model: ir.Model, name: str) -> ir.Model:
    """Strip metadata, name the graph, drop what is unused, lift large constants."""
    passes = ir.passes.Sequential(
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=64),
        common_passes.DeduplicateInitializersPass(),
        common_passes.IdentityEliminationPass(),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.ClearMetadataAndDocStringPass(),
    )
    model = passes(model).model
    for holder in (model, model.graph, *_values(model.graph)):
        holder.metadata_props.clear()
    model.graph.name = name
    model.producer_name = "samclip"
    model.producer_version = None
    return model


def _values(graph: ir.Graph) -> Iterator[ir.Value | ir.TensorProtocol]:
    """Every value of a graph, and the tensors of its initializers."""
    yield from graph.inputs
    for value in graph.initializers.values():
        yield value
        if value.const_value is not None:
            yield value.const_value
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and its notes about itself off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


Array = NDArray[np.generic]

MIN_EXTERNAL_BYTES = 1024  # smaller tensors (shapes, scalars, biases of norms) stay in the graph


def externalise(variants: Mapping[str, ir.Model], location: str) -> tuple[dict[str, bytes], bytes]:
    """Split ONNX models into small graph files and one weights file.

    `variants` maps file names to models, `location` is the weights file's name beside them.
    Tensors of equal dtype, shape and content are stored once and get one name in all variants.
    Returns the serialised graphs by file name, and the weights file.
    """
    names: dict[str, str] = {}
    arrays: dict[str, Array] = {}
    for model in variants.values():
        _share(model, names, arrays)
    weights = serialise_weights(arrays)
    offsets = weight_offsets(weights)
    graphs = {}
    for file, model in variants.items():
        for value in model.graph.initializers.values():
            if value.name in offsets:
                _point(value, location, *offsets[value.name])
        graphs[file] = ir.to_proto(model).SerializeToString(deterministic=True)
    return graphs, weights


def internalise(graph: bytes, weights: Mapping[str, Array]) -> ir.Model:
    """Undo `externalise` for one graph: parse its file and put the shared weights, by name, in."""
    model = ir.serde.deserialize_model(onnx.load_from_string(graph))
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(weights[name], name=name)
    return model


def _share(model: ir.Model, names: dict[str, str], arrays: dict[str, Array]) -> None:
    """Give every large initializer of a graph the one name that its content has in all variants."""
    initializers = model.graph.initializers
    large = [(value, _content(value)) for value in initializers.values()]
    large = [(value, array) for value, array in large if array.nbytes >= MIN_EXTERNAL_BYTES]
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


def _content(value: ir.Value) -> Array:
    if value.const_value is None:
        raise ExportError(f"the weight {value.name} has no value: a defect of samclip, report it")
    return np.ascontiguousarray(value.const_value.numpy())


def _shared_name(name: str, array: Array, names: dict[str, str], arrays: dict[str, Array]) -> str:
    """Look up a content's name, or give it one: a parameter's own, unless other content has it.

    The exporter's constants, whose names have no dots, are called by their content.
    """
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    key = f"{array.dtype}{array.shape}{digest}"
    if key not in names:
        wanted = name if "." in name else "constant"
        free = wanted != "constant" and wanted not in arrays
        names[key] = wanted if free else f"{wanted}.{digest[:16]}"
        arrays[names[key]] = array
    return names[key]


def _point(value: ir.Value, location: str, offset: int, length: int) -> None:
    """Replace a tensor by a reference into the weights file."""
    tensor = value.const_value
    if tensor is None:
        raise ExportError(f"the weight {value.name} has no value: a defect of samclip, report it")
    value.const_value = ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
    )
