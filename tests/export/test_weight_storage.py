"""Weights stored as FP16 and INT8: what is rounded, and what the expanded graph computes."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper
from small_graphs import graph_files, small_graph

from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles
from samclip.export.weight_storage import Rounded, round_weight, store_weights
from samclip.runtime.bundles.manifest import WeightsDtype
from samclip.runtime.bundles.weights import parse_weights

Array = NDArray[np.float32]

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape, np.float32)


WEIGHTS = {
    "table.weight": normal(600, 256),
    "lin.weight": normal(256, 512),
    "gemm.weight": normal(512, 512),
    "conv.weight": normal(64, 512, 2, 2),
    "up.weight": normal(64, 512, 2, 2),
    "small.weight": normal(512, 8),
    "norm.bias": normal(4096),
    "added.weight": normal(512, 512),
    "tokens.weight": normal(256, 512) * np.geomspace(1, 100, 512, dtype=np.float32),
}
FP16 = dict.fromkeys(WEIGHTS, "float16") | {"norm.bias": "float32"}
INT8 = {name: "int8" for name in WEIGHTS if name not in {"small.weight", "added.weight"}}
EXPECTED = {"fp16": FP16, "int8": FP16 | INT8 | {"norm.bias": "float32"}}
# Shares of the original size; a seventh of all weights is not a factor of products.
BYTES = {"fp16": 0.51, "int8": 0.36}


def everything() -> GraphFiles:
    """One use of every kind: a lookup, products of four kinds, a sum, joined tokens, a bias."""
    nodes = [
        helper.make_node("Gather", ["table.weight", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "lin.weight"], ["a"]),
        helper.make_node("Gemm", ["a", "gemm.weight"], ["b"], transB=1),
        helper.make_node("Add", ["b", "added.weight"], ["c"]),
        helper.make_node("Concat", ["c", "tokens.weight"], ["t"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Conv", ["d", "conv.weight"], ["e"]),
        helper.make_node("ConvTranspose", ["e", "up.weight"], ["f"]),
        helper.make_node("MatMul", ["c", "small.weight"], ["y"]),
        helper.make_node("Reshape", ["y", "line"], ["g"]),
        helper.make_node("Add", ["g", "norm.bias"], ["z"]),
    ]
    constants = {
        "shape": np.asarray([1, 512, 32, 16], np.int64),
        "line": np.asarray([-1], np.int64),
    }
    outputs = {"f": (1, 512, 32, 16), "t": (768, 512), "z": (4096,)}
    graph = small_graph("g", nodes, {"ids": (512,)}, outputs, WEIGHTS | constants)
    return graph_files("g", graph)


def run(files: GraphFiles, variant: int = 0) -> dict[str, NDArray[np.generic]]:
    source = files.sources()[variant][1]
    with closing(get_backend("onnxruntime").load(source, EngineOptions(threads=1))) as engine:
        (name,) = engine.input_names
        feed = np.arange(512) % 600 if name == "ids" else np.ones((4, 512), np.float32)
        return {key: tensor.numpy() for key, tensor in engine.run({name: feed}).items()}


def stored(files: GraphFiles) -> dict[str, NDArray[np.generic]]:
    return parse_weights(files.files["g.safetensors"])


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_each_weight_is_stored_as_it_should_be(dtype: WeightsDtype, tmp_path: Path) -> None:
    original = everything()
    files = store_weights(original, dtype)
    tensors = stored(files)
    assert {name: str(tensors[name].dtype) for name in WEIGHTS} == EXPECTED[dtype]
    assert [variant.weights_dtype for variant in files.graph.variants] == [dtype]
    assert [variant.precision for variant in files.graph.variants] == ["fp32"]
    sizes = [len(f.files["g.safetensors"]) for f in (files, original)]
    assert sizes[0] / sizes[1] < BYTES[dtype]
    for name, data in files.files.items():
        (tmp_path / name).write_bytes(data)
    onnx.checker.check_model(str(tmp_path / "g.0.onnx"), full_check=True)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_the_graph_computes_with_the_rounded_weights_in_fp32(dtype: WeightsDtype) -> None:
    files = store_weights(everything(), dtype)
    tensors = stored(files)
    rounded = {
        name: tensors[name].astype(np.float32) * tensors.get(f"{name}_scale", np.float32(1))
        for name in WEIGHTS
    }
    found = run(files)
    a = rounded["table.weight"][np.arange(512)] @ rounded["lin.weight"]
    c = a @ rounded["gemm.weight"].T + rounded["added.weight"]
    z = (c @ rounded["small.weight"]).reshape(-1) + rounded["norm.bias"]
    # FP32 in another order: 1e-5 of the largest; rounding itself is 100 times coarser
    np.testing.assert_allclose(found["z"], z, atol=1e-5 * np.abs(z).max())
    np.testing.assert_array_equal(found["t"][512:], rounded["tokens.weight"])
    exact = run(everything())
    for channel in (0, 511):  # each with its own scale
        error = np.abs(found["t"] - exact["t"])[512:, channel].max()
        assert error < 0.006 * np.abs(exact["t"][512:, channel]).max()
    for name, limit in (("z", 0.05), ("f", 0.05)):
        assert 1e-4 < np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max() < limit


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_phases_stay_exact(dtype: WeightsDtype) -> None:
    """What a sine is computed from is not rounded, whether or not the exporter folded the product.

    A grid's phases of up to 20 in FP16 would move its sines by 0.008.
    """
    cells = np.random.default_rng(3).uniform(-1, 1, (64, 512)).astype(np.float32)
    phases = 20 * np.random.default_rng(4).uniform(-1, 1, (64, 512)).astype(np.float32)
    constants = {"grid.cells": cells, "grid.folded": phases, "turn": np.float32([2 * np.pi])}
    constants["after.weight"] = normal(512, 512)
    nodes = [
        helper.make_node("Mul", ["grid.cells", "turn"], ["scaled"]),
        helper.make_node("Cos", ["scaled"], ["cosines"]),
        helper.make_node("Sin", ["grid.folded"], ["sines"]),
        helper.make_node("Add", ["sines", "cosines"], ["positions"]),
        helper.make_node("MatMul", ["positions", "after.weight"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["y"]),
    ]
    graph = small_graph("g", nodes, {"x": (64, 512)}, {"y": (64, 512)}, constants)
    tensors = stored(store_weights(graph_files("g", graph), dtype))
    assert str(tensors["after.weight"].dtype) == {"fp16": "float16", "int8": "int8"}[dtype]
    np.testing.assert_array_equal(tensors["grid.cells"], cells)
    np.testing.assert_array_equal(tensors["grid.folded"], phases)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_weights_behind_a_bounded_angle_are_rounded(dtype: WeightsDtype) -> None:
    """The gate of taught names: the sine of a sigmoid of what the whole text tower computed."""
    nodes = [
        helper.make_node("MatMul", ["x", "tower.weight"], ["embedding"]),
        helper.make_node("Sigmoid", ["embedding"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["y"]),
    ]
    constants = {"tower.weight": normal(512, 512)}
    graph = small_graph("g", nodes, {"x": (4, 512)}, {"y": (4, 512)}, constants)
    tensors = stored(store_weights(graph_files("g", graph), dtype))
    assert str(tensors["tower.weight"].dtype) == {"fp16": "float16", "int8": "int8"}[dtype]


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("by_name", [False, True])
def test_onnx_runtime_folds_the_expansion(
    dtype: WeightsDtype, by_name: bool, tmp_path: Path
) -> None:
    """However external weights are handed over, nothing is left to expand in a run but rows."""

    def operators(files: GraphFiles) -> Counter[str]:
        source = files.sources()[0][1]
        settings = onnxruntime.SessionOptions()
        settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        settings.log_severity_level = 4  # it warns that the file fits this machine only
        values = []
        if by_name:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in source.weights.values()]
            settings.add_external_initializers(list(source.weights), values)
        else:
            data = list(source.files.values())
            settings.add_external_initializers_from_files_in_memory(
                list(source.files), data, [len(d) for d in data]
            )
        onnxruntime.InferenceSession(source.onnx, settings, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(tmp_path / "optimised.onnx")).graph
        return Counter(node.op_type for node in graph.node)

    rows = {"fp16": Counter(Cast=1), "int8": Counter(Cast=1, Mul=1, Gather=1)}
    assert operators(store_weights(everything(), dtype)) == operators(everything()) + rows[dtype]


def test_int8_has_a_scale_per_output_channel() -> None:
    weight = normal(512, 512)
    weight[:, 0] *= 1000
    weight[:, 1] = 0
    rounded = round_weight("w", weight, (0,))
    assert rounded.scale is not None
    assert rounded.scale.shape == (1, 512)
    error = np.abs(rounded.values * rounded.scale - weight).max(axis=0)
    # half a step of each channel's own scale, and FP32's rounding of it
    np.testing.assert_array_less(error, np.abs(weight).max(axis=0) / 127 / 2 * 1.0001 + 1e-12)
    assert rounded.values.min() >= -127
    assert error[1] == 0


def test_every_matrix_of_a_stack_has_scales_of_its_own() -> None:
    weight = normal(32, 64, 64) * np.arange(1, 33, dtype=np.float32)[:, None, None]
    rounded = round_weight("w", weight, (1,))
    assert rounded.scale is not None
    assert rounded.scale.shape == (32, 1, 64)
    assert np.abs(rounded.values * rounded.scale - weight).max() < 32 * 6 / 127 / 2


@pytest.mark.parametrize(
    ("value", "summed"), [(np.inf, None), (np.nan, (0,)), (70_000.0, None), (-70_000.0, None)]
)
def test_weights_that_cannot_be_rounded(value: float, summed: tuple[int, ...] | None) -> None:
    weight = normal(512, 512)
    weight[3, 4] = value
    with pytest.raises(ExportError, match=r"'w' reaches .* as fp32"):
        round_weight("w", weight, summed)


def test_large_values_fit_int8() -> None:
    weight = normal(512, 512) * 1e6
    assert isinstance(round_weight("w", weight, (0,)), Rounded)


def test_int8_is_not_for_the_tensorrt_provider() -> None:
    files = everything()
    graph = msgspec.structs.replace(
        files.graph,
        variants=tuple(
            msgspec.structs.replace(v, backends=("cuda", "ort-tensorrt"))
            for v in files.graph.variants
        ),
    )
    both = replace(files, graph=graph)
    assert store_weights(both, "fp16").graph.variants[0].backends == ("cuda", "ort-tensorrt")
    assert store_weights(both, "int8").graph.variants[0].backends == ("cuda",)


def test_fp32_changes_nothing() -> None:
    files = everything()
    assert store_weights(files, "fp32") is files


def test_variants_share_rounded_weights_whatever_they_use_them_for() -> None:
    """Gemm tells the output channels; a bare Transpose of the same weight must not undo that."""
    weights = {"w.weight": normal(512, 512)}
    product = [helper.make_node("Gemm", ["x", "w.weight"], ["y"], transB=1)]
    turned = [
        helper.make_node("Transpose", ["w.weight"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    shapes = {"x": (4, 512)}, {"y": (4, 512)}
    files = graph_files("g", *(small_graph("g", n, *shapes, weights) for n in (product, turned)))
    rounded = store_weights(files, "int8")
    assert {name: str(t.dtype) for name, t in stored(rounded).items()} == {
        "w.weight": "int8",
        "w.weight_scale": "float32",
    }
    first, second = (run(rounded, variant)["y"] for variant in (0, 1))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_uses_that_disagree_on_the_channels_get_fp16() -> None:
    weights = {"w.weight": normal(512, 512)}
    nodes = [
        helper.make_node("MatMul", ["x", "w.weight"], ["a"]),
        helper.make_node("Gemm", ["a", "w.weight"], ["y"], transB=1),
    ]
    files = graph_files("g", small_graph("g", nodes, {"x": (4, 512)}, {"y": (4, 512)}, weights))
    assert [str(t.dtype) for t in stored(store_weights(files, "int8")).values()] == ["float16"]
