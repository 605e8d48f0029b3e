"""OpenVINO against ONNX Runtime: the shipped bundle, task by task, and small graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, load_from_string, numpy_helper
from onnx.reference import ReferenceEvaluator

import samclip
from samclip.engines.base import Backend, EngineOptions, GraphSource
from samclip.engines.machine.device import saturates_int8
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.openvino.backend import OPENVINO

pytest.importorskip("openvino")

NAMES = ["a cup of coffee", "a dog", "a table", "a spoon"]
TWO_THREADS = EngineOptions(threads=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def scenes(cache: Path, photo: NDArray[np.uint8]) -> Iterator[list[samclip.Scene]]:
    """The same photo by ONNX Runtime and by OpenVINO, each with its own text embeddings."""
    models = [
        samclip.load("samclip-tiny", backend, threads=2, cache_dir=cache / backend)
        for backend in ("onnxruntime", "openvino")
    ]
    yield [model.encode(photo) for model in models]
    for model in models:
        model.close()


def test_classification(scenes: list[samclip.Scene]) -> None:
    ours, theirs = (scene.classify(NAMES) for scene in scenes)
    assert ours.names == theirs.names
    # measured 2e-6; both are FP32 with sums in another order
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)


@pytest.mark.parametrize(
    "prompts",
    [
        {"boxes": (75, 15, 480, 392)},
        {"boxes": [(75, 15, 480, 392), (170, 15, 420, 320), (320, 210, 420, 330)]},
        {"points": [(300, 120)], "multimask": True},
        {"points": [(300, 120), (420, 250), (30, 30)], "labels": [1, 1, 0]},
    ],
    ids=["box", "boxes", "point", "points"],
)
def test_masks(scenes: list[samclip.Scene], prompts: dict) -> None:
    """A batch of one and of several, one point and several: every dynamic axis of the decoder."""
    ours, theirs = (scene.segment(**prompts) for scene in scenes)
    assert ours.masks.shape == theirs.masks.shape
    same = (ours.masks == theirs.masks).mean()
    assert same >= 0.9999  # share of pixels; those on a contour may tip over
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


@pytest.mark.parametrize("refine", [False, True])
def test_semantic(scenes: list[samclip.Scene], refine: bool) -> None:
    ours, theirs = (scene.semantic(NAMES, refine=refine) for scene in scenes)
    assert (ours.labels == theirs.labels).mean() >= 0.999  # share of pixels


def mlp() -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """Linear layers, norm, softmax and Gelu of opset 20, on N texts of 7 tokens."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 32)) / 4,
        "w2": rng.standard_normal((32, 16)) / 6,
        "g": rng.random(16) + 0.5,
        "b": rng.standard_normal(16),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"]),
        helper.make_node("MatMul", ["n", "w1"], ["h"]),
        helper.make_node("Gelu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["o"]),
        helper.make_node("Softmax", ["o"], ["y"]),
    ]
    return model(nodes, weights, ["texts", 7, 16]), {"one": (1, 7, 16), "five": (5, 7, 16)}


def quantised(operator: str) -> bytes:
    """A product of unsigned inputs and signed weights between Q/DQ pairs, as INT8 graphs have."""
    rng = np.random.default_rng(1)
    side = (64, 64, 3, 3) if operator == "Conv" else (64, 64)
    weights = {
        "w": rng.integers(-127, 128, side).astype(np.int8),
        "ws": (rng.random(64) * 0.01 + 0.005).astype(np.float32),
        "wz": np.zeros(64, np.int8),
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
    }
    pads = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["k"], axis=0 if pads else 1),
        helper.make_node(operator, ["d", "k"], ["y"], **pads),
    ]
    return model(nodes, weights, [1, 64, 16, 16] if pads else [1, 64, 64])


def model(nodes: list, weights: dict[str, NDArray], shape: list) -> bytes:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, of)
        for name, of in (("x", shape), ("y", None))
    )
    initializers = [
        numpy_helper.from_array(w.astype(np.float32) if w.dtype == np.float64 else w, name)
        for name, w in weights.items()
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def computed(backend: Backend, onnx: bytes, x: NDArray[np.float32]) -> NDArray[np.generic]:
    return backend.load(GraphSource("g", onnx), TWO_THREADS).run({"x": x})["y"].numpy()


def test_dynamic_graphs_in_fp32() -> None:
    onnx, shapes = mlp()
    for shape in shapes.values():
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        # BF16, which OpenVINO would choose by itself, is off by 1e-3
        np.testing.assert_allclose(computed(OPENVINO, onnx, x), computed(CPU, onnx, x), atol=2e-6)


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_int8(operator: str) -> None:
    """Integers times scales on both sides, so only the last rounding differs."""
    onnx = quantised(operator)
    shape = (1, 64, 16, 16) if operator == "Conv" else (1, 64, 64)
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    ours, theirs = computed(OPENVINO, onnx, x), computed(CPU, onnx, x)
    exact = ReferenceEvaluator(load_from_string(onnx)).run(None, {"x": x})[0]
    # products of 8 bits must not saturate on processors without VNNI: that is off by 7 and more
    assert np.abs(theirs - exact).max() <= 1e-4
    # a value halfway between two integers may be rounded to either: one step of 0.02 at |w| <= 1.9
    assert np.abs(ours - theirs).max() <= 0.04
    assert np.abs(ours - theirs).mean() <= 1e-3


def test_int8_runs_on_int8_kernels() -> None:
    engine = OPENVINO.load(GraphSource("g", quantised("Conv")), TWO_THREADS)
    compiled = engine._computing.model.get_runtime_model()
    facts = [operator.get_rt_info() for operator in compiled.get_ops()]
    kernels = [
        f["runtimePrecision"].astype(str)
        for f in facts
        if f["layerType"].astype(str) == "Convolution"
    ]
    assert kernels
    wanted = {"f32"} if saturates_int8() else {"u8", "i8"}  # slower, and right
    assert set(kernels) <= wanted


def test_the_environment_is_left_as_it_was() -> None:
    """The variable that keeps OpenVINO from AMX is for it alone: torch reads it too."""
    code = (
        "import os\nfrom samclip.engines.openvino.library import ISA_VARIABLE, import_library\n"
        "from samclip.engines.openvino.library import open_core\n"
        "before = dict(os.environ)\ncore = open_core(import_library())\n"
        "assert core is open_core(import_library())\nassert dict(os.environ) == before\n"
    )
    for given in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
        run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, check=False)
        assert run.returncode == 0
