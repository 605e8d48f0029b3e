"""Large initializers of one graph's variants, moved into one shared safetensors file.

The file is at once ONNX external data (every tensor has an offset and a length in it) and a
safetensors file, so the runtime can hand its verified bytes to a backend without parsing ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.runtime.bundles.weights import serialise_weights, weight_offsets

MIN_EXTERNAL_BYTES = 1024  # smaller tensors (shapes, scalars, biases of norms) stay in the graph


def externalise(variants: Mapping[str, ir.Model], location: str) -> tuple[dict[str, bytes], bytes]:
    """Split ONNX models into small graph files and one weights file.

    `variants` maps file names to models, `location` is the weights file's name beside them.
    Tensors of equal dtype, shape and content are stored once and get one name in all variants.
    Returns the serialised graphs by file name, and the weights file.
    """
    names: dict[str, str] = {}
    arrays: dict[str, NDArray[np.generic]] = {}
    for model in variants.values():
        for value in list(model.graph.initializers.values()):
            if value.const_value is None:
                raise ExportError(f"the initializer {value.name} has no value")
            if value.const_value.nbytes >= MIN_EXTERNAL_BYTES:
                _share(model, value, names, arrays)
    weights = serialise_weights(arrays)
    offsets = weight_offsets(weights)
    graphs = {}
    for file, model in variants.items():
        for value in model.graph.initializers.values():
            if value.name in offsets:
                _point(value, location, *offsets[value.name])
        graphs[file] = ir.to_proto(model).SerializeToString(deterministic=True)
    return graphs, weights


def _share(
    model: ir.Model, value: ir.Value, names: dict[str, str], arrays: dict[str, NDArray[np.generic]]
) -> None:
    """Give `value` the one name that its content has across variants."""
    array = np.ascontiguousarray(value.const_value.numpy())  # type: ignore[union-attr]
    digest = hashlib.sha256(array.tobytes())
    key = f"{array.dtype}{array.shape}{digest.hexdigest()}"
    if key not in names:
        names[key] = _lasting_name(str(value.name), digest.hexdigest())
        arrays[names[key]] = array
    initializers = model.graph.initializers
    if value.name == names[key]:
        return
    del initializers[str(value.name)]
    if names[key] in initializers:  # the same content twice in one graph: keep one
        ir.convenience.replace_all_uses_with(value, initializers[names[key]])
    else:
        value.name = names[key]
        initializers[names[key]] = value


def _lasting_name(name: str, digest: str) -> str:
    """Keep a parameter's dotted name; name the exporter's own constants by their content."""
    return name if "." in name else f"constant.{digest[:16]}"


def _point(value: ir.Value, location: str, offset: int, length: int) -> None:
    """Replace a tensor by a reference into the weights file."""
    tensor = value.const_value
    if tensor is None:
        raise ExportError(f"the initializer {value.name} has no value")
    value.const_value = ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
    )
