"""An encoder of two linear layers, and inputs for it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import helper
from small_graphs import graph_files, small_graph

from samclip.export.graph_files import GraphFiles
from samclip.export.options import LOWERINGS_BY_BACKEND

SIDE = 32


def encoder(gain: float = 1.0, two_outputs: bool = False) -> GraphFiles:
    """Two linear layers; the first makes values `gain` times larger, the second smaller again.

    With `two_outputs` what lies between them is an output too, `h`.
    """
    rng = np.random.default_rng(0)
    weights = {
        "first.weight": rng.standard_normal((SIDE, SIDE)).astype(np.float32) * np.float32(gain),
        "second.weight": rng.standard_normal((SIDE, SIDE)).astype(np.float32) / np.float32(gain),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first.weight"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "second.weight"], ["y"], name="second"),
    ]
    names = ("h", "y") if two_outputs else ("y",)
    shapes = {"x": ("n", SIDE)}, dict.fromkeys(names, ("n", SIDE))
    files = graph_files("encoder", small_graph("encoder", nodes, *shapes, weights))
    variant = msgspec.structs.replace(
        files.graph.variants[0], file="encoder.onnx", backends=tuple(LOWERINGS_BY_BACKEND)
    )
    graph = msgspec.structs.replace(files.graph, variants=(variant,))
    contents = {**files.files, "encoder.onnx": files.files["encoder.0.onnx"]}
    return GraphFiles("encoder", graph, contents)


class Features:
    """Inputs that are not images, so that no check for photos applies to them."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for seed in range(3):
            yield {"x": np.random.default_rng(seed).random((4, SIDE), np.float32)}
