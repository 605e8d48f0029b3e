"""The encoder of `fakes` as a graph of uint8 pixels, in a bundle whose other graphs are fakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from fakes import IMAGE_SIZE, FakeBackend, FakeBundle, FakeEngine, fake_manifest
from onnx import TensorProto, helper, numpy_helper

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.runtime.bundles.manifest import TensorSpec
from samclip.runtime.model import Model

SQUARE = (1, IMAGE_SIZE, IMAGE_SIZE, 3)
INPUTS = (
    TensorSpec(name="image_u8", dtype="uint8", shape=SQUARE),
    TensorSpec(name="image_size", dtype="int32", shape=(2,)),
)


def uint8_encoder() -> bytes:
    """What `fakes.encode` computes, of pixels that the graph normalises and pads."""
    value, make = helper.make_tensor_value_info, helper.make_node
    constants: Mapping[str, Any] = {
        "rows": np.arange(IMAGE_SIZE, dtype=np.int32)[:, None],
        "columns": np.arange(IMAGE_SIZE, dtype=np.int32),
        "zero": np.zeros((), np.float32),
        "one": np.ones((), np.float32),
        "most": np.full((), 255, np.float32),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    nodes = [
        make("Cast", ["image_u8"], ["floats"], to=TensorProto.FLOAT),
        make("Transpose", ["floats"], ["planes"], perm=(0, 3, 1, 2)),
        make("Div", ["planes", "most"], ["normalised"]),
        make("Gather", ["image_size", "first"], ["height"]),
        make("Gather", ["image_size", "second"], ["width"]),
        make("Greater", ["height", "rows"], ["above"]),
        make("Greater", ["width", "columns"], ["before"]),
        make("And", ["above", "before"], ["inside"]),
        make("Where", ["inside", "normalised", "zero"], ["image"]),
        make(
            "AveragePool", ["image"], ["backbone_features"], kernel_shape=[16] * 2, strides=[16] * 2
        ),
        make("Add", ["backbone_features", "one"], ["image_embeddings"]),
    ]
    grid = [1, 3, IMAGE_SIZE // 16, IMAGE_SIZE // 16]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [value("image_u8", TensorProto.UINT8, SQUARE), value("image_size", TensorProto.INT32, [2])],
        [
            value(name, TensorProto.FLOAT, grid)
            for name in ("backbone_features", "image_embeddings")
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


SOURCE = GraphSource("encoder", uint8_encoder())


@dataclass
class Uint8Backend(FakeBackend):
    """Has the encoder loaded by `load_encoder`, such as one for TensorRT's stand-in."""

    load_encoder: Any = None
    encoder: Any = field(default=None, init=False)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        if source.name != "encoder":
            return super().load(source, options)
        self.encoder = self.load_encoder(SOURCE)
        engine: Engine = self.encoder
        return engine


def uint8_model(load_encoder: Any, max_pixels: int = 2**27, uint8: bool = True) -> Model:
    """`fakes.fake_model` whose encoder is `uint8_encoder`."""
    manifest = fake_manifest()
    if uint8:
        encoder = msgspec.structs.replace(manifest.graphs.encoder, inputs=INPUTS)
        graphs = msgspec.structs.replace(manifest.graphs, encoder=encoder)
        manifest = msgspec.structs.replace(manifest, graphs=graphs)
    bundle: Any = FakeBundle(manifest)
    backend = Uint8Backend(load_encoder=load_encoder)
    return Model(bundle, backend, EngineOptions(), max_pixels=max_pixels)


def fake_encoder(_: GraphSource) -> FakeEngine:
    return FakeEngine("encoder")
