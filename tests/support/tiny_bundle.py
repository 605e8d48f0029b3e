"""The smallest bundle there can be, for tests of everything that is not the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from samclip.runtime.bundles.manifest import (
    Graph,
    Graphs,
    Manifest,
    Preprocessing,
    Provenance,
    TensorSpec,
    Variant,
)
from samclip.runtime.bundles.weights import serialise_weights, weight_offsets
from samclip.runtime.bundles.writing import write_bundle

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
WEIGHTS_FILE = "weights.safetensors"


def make_model(nodes: Iterable[Any], inputs: Any, outputs: Any, initializers: Any = ()) -> bytes:
    """An ONNX model of float32 tensors: `inputs` and `outputs` map names to shapes."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in d.items()]
        for d in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "tiny", *infos, list(initializers))
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def external_tensor(name: str, array: NDArray[np.generic], location: str, at: tuple[int, int]):
    """An initializer whose data is in the file `location`, `at` (offset, length)."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", at[0]), ("length", at[1])):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def affine_model(location: str = WEIGHTS_FILE) -> tuple[bytes, bytes]:
    """y = x @ w and z = -y, Nx4 to Nx3; with `w` in a weights file that also holds others."""
    data = serialise_weights({"w": WEIGHT, "other.variant": np.ones(3, np.float16)})
    weight = external_tensor("w", WEIGHT, location, weight_offsets(data)["w"])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    shape = ["n", 3]
    return make_model(nodes, {"x": ["n", 4]}, {"y": shape, "z": shape}, [weight]), data


def negation_model() -> bytes:
    """y = -x, of any shape Nx4, without weights."""
    return make_model([helper.make_node("Neg", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})


def graph(*variants: Variant) -> Graph:
    x = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    y = TensorSpec(name="y", dtype="float32", shape=("n", 3))
    return Graph(inputs=(x,), outputs=(y,), variants=variants)


def tiny_manifest(**changes: Any) -> Manifest:
    """A manifest whose encoder is `affine_model` and whose mask decoder is `negation_model`."""
    encoder = graph(
        Variant(
            file="encoder.onnx", weights=WEIGHTS_FILE, opset=18, backends=("onnxruntime", "cuda")
        ),
        Variant(
            file="encoder.onnx",
            weights=WEIGHTS_FILE,
            precision="fp16",
            opset=18,
            backends=("tensorrt",),
        ),
    )
    decoder = graph(Variant(file="decoder.onnx", opset=18, backends=("onnxruntime",)))
    manifest = Manifest(
        name="tiny",
        model_type="test",
        preprocessing=Preprocessing(
            image_size=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
        ),
        graphs=Graphs(encoder=encoder, mask_decoder=decoder),
        files={},
        provenance=Provenance(sources=(), samclip="0", torch="0", onnx="0"),
    )
    return msgspec.structs.replace(manifest, **changes)


def tiny_files() -> dict[str, bytes]:
    encoder, weights = affine_model()
    return {
        "encoder.onnx": encoder,
        WEIGHTS_FILE: weights,
        "decoder.onnx": negation_model(),
        "licenses/third party/LICENSE": b"free\n",
    }


def write_tiny_bundle(target: Path, overwrite: bool = False, **changes: Any) -> Path:
    return write_bundle(target, tiny_manifest(**changes), tiny_files(), overwrite)
