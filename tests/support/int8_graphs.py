"""A small network with every kind of layer that INT8 knows, and photos for it."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper
from onnx_ir.passes.common import ShapeInferencePass
from small_graphs import small_graph

from samclip.export.cpu_engine import open_on_cpu

Array = NDArray[np.float32]
SIZE = 32
WIDTH = 32


def small_network(seed: int = 0) -> ir.Model:
    """Stem, depthwise and pointwise convolution, a residual, LayerNorm, two linear layers, Gemm."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:]), dtype="f4")

    node = helper.make_node
    nodes = [
        node("Conv", ["image", "stem.weight", "stem.bias"], ["a"], "first", pads=[1] * 4),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Conv", ["b", "dw.weight", "dw.bias"], ["c"], pads=[1] * 4, group=WIDTH),
        node("Clip", ["c", "zero", "six"], ["d"]),
        node("Conv", ["d", "pw.weight", "pw.bias"], ["e"]),
        node("Add", ["b", "e"], ["f"]),
        node("Transpose", ["f"], ["g"], perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["g", "norm.weight", "norm.bias"], ["h"]),
        node("MatMul", ["h", "constant"], ["i"]),
        node("Add", ["i", "fc1.bias"], ["j"]),
        node("Gelu", ["j"], ["k"]),
        node("MatMul", ["k", "fc2.weight"], ["l"]),
        node("Add", ["l", "g"], ["features"]),
        node("ReduceMean", ["features", "axes"], ["m"], keepdims=0),
        node("Gemm", ["m", "head.weight", "head.bias"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["n"]),
        node("MatMul", ["n", "names"], ["embedding"]),
    ]
    weights = {
        "stem.weight": normal(WIDTH, 3, 3, 3),
        "stem.bias": normal(WIDTH),
        "dw.weight": normal(WIDTH, 1, 3, 3),
        "dw.bias": normal(WIDTH),
        "pw.weight": normal(WIDTH, WIDTH, 1, 1),
        "pw.bias": normal(WIDTH),
        "norm.weight": 1 + normal(WIDTH),
        "norm.bias": normal(WIDTH),
        "constant": normal(WIDTH, 4 * WIDTH),
        "fc1.bias": normal(4 * WIDTH),
        "fc2.weight": normal(4 * WIDTH, WIDTH),
        "head.weight": normal(24, WIDTH),
        "head.bias": normal(24),
        "names": normal(24, 16),
        "zero": np.float32(0),
        "six": np.float32(6),
        "axes": np.asarray([1, 2], np.int64),
    }
    outputs = {"features": (1, SIZE, SIZE, WIDTH), "logits": (1, 24), "embedding": (1, 16)}
    inputs = {"image": (1, 3, SIZE, SIZE)}
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    model = small_graph("encoder", nodes, inputs, outputs, arrays)
    return ShapeInferencePass()(model).model


def photo_feeds(count: int = 3, seed: int = 0) -> list[dict[str, Array]]:
    """Smooth pictures with edges, normalised as an encoder takes them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE
    feeds = []
    for _ in range(count):
        waves = rng.standard_normal((3, 4), np.float32) * 4
        image = np.stack([a * x + b * y + np.sin(c * x + d * y) for a, b, c, d in waves])
        image += 0.5 * (x > rng.random())
        feeds.append({"image": image[None].astype(np.float32)})
    return feeds


def run(model: ir.Model, feed: dict[str, Array]) -> dict[str, Array]:
    """Run a graph on ONNX Runtime's CPU."""
    with closing(open_on_cpu(model)) as engine:
        return {name: np.asarray(t.numpy()) for name, t in engine.run(feed).items()}


def cosine(a: Array, b: Array) -> float:
    """The cosine between two arrays taken as vectors."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
