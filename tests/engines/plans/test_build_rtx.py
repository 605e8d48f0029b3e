"""Real engines of real graphs, built ahead of time by TensorRT for RTX: no GPU, no driver."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from recorded_progress import RecordedProgress

pytest.importorskip(
    "tensorrt_rtx", reason="builds real engines: pip install tensorrt-rtx-cu13 (no GPU needed)"
)

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from typed_graphs import full_model, typed_source, uint8_encoder

from samclip.engines.base import GraphSource
from samclip.engines.plans import build, network
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.library import Library, open_library
from samclip.engines.plans.match import PlanHost, find_plan
from samclip.engines.plans.network import Network, describe_tensors
from samclip.engines.plans.request import BuildRequest, BuiltPlan
from samclip.engines.plans.sidecar import DEFAULT_AXES, BuildOptions
from samclip.engines.plans.store import read_plan
from samclip.engines.steps import ChangeSettings, ExportBundle
from samclip.errors import PlanBuildError
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_bundles
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graph

GRAPHS = ("encoder", "mask_decoder", "clip_head", "text_encoder")
MATRIX = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


@pytest.fixture(scope="module")
def rtx() -> Library:
    return open_library("tensorrt-rtx")


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return Bundle.open(packaged_bundles() / DEFAULT_BUNDLE)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks that builds parse."""
    found: list[Network] = []

    def parse(*arguments: Any) -> Network:
        found.append(network.parse_network(*arguments))
        return found[-1]

    monkeypatch.setattr(build, "parse_network", parse)
    return found


def build_one(source: GraphSource, rtx: Library, *capabilities: str, **changes: Any) -> BuiltPlan:
    return build_plan(BuildRequest(source, capabilities or ("8.6",), **changes), rtx)


def small_graph(
    nodes: list[Any], dtype: int, shapes: dict[str, list[int]], precision: str, **tensors: Any
) -> GraphSource:
    """A graph by hand: all but the last of `shapes` are inputs."""
    infos = [helper.make_tensor_value_info(n, dtype, shape) for n, shape in shapes.items()]
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "small", infos[:-1], infos[-1:], weights)
    opsets = [helper.make_opsetid("", 23)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    return GraphSource("small", model.SerializeToString(), precision=precision)


def attention(precision: str, value_size: int = 32, tokens: int = 64) -> GraphSource:
    dtype = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    shapes = {name: [1, 4, tokens, 32] for name in ("q", "k")}
    shapes |= {name: [1, 4, tokens, value_size] for name in ("v", "y")}
    shapes = {"bias": [1, 4, tokens, tokens], **shapes}
    node = helper.make_node("Attention", ["q", "k", "v", "bias"], ["y"], name="attention")
    return small_graph([node], dtype[precision], shapes, precision)


def decomposed_attention(tokens: int) -> GraphSource:
    """The same in parts and in FP16, but for the softmax, as the exporter types it."""
    half = TensorProto.FLOAT16
    shapes = {"bias": [1, 4, tokens, tokens]}
    shapes |= {name: [1, 4, tokens, 32] for name in ("q", "k", "v", "y")}
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["wide"], ["shares"], axis=-1),
        helper.make_node("Cast", ["shares"], ["narrow"], to=half),
        helper.make_node("MatMul", ["narrow", "v"], ["y"]),
    ]
    return small_graph(nodes, half, shapes, "fp16", scale=np.asarray(32**-0.5, np.float16))


def kernels(built: BuiltPlan) -> tuple[bool, set[bytes]]:
    """Whether a plan holds a fused attention, and in what types its first products add up.

    Plans of TensorRT for RTX hold the source of such kernels.
    """
    data = read_plan(built.stored)
    types = re.findall(rb"Kernel_traits\w*<\s*fmha::Ampere_hmma_([a-z0-9]+)_traits", data)
    return b"_gemm_mha_v2" in data, set(types)


@pytest.mark.parametrize("name", ["attention", "encoder", "text_encoder"])
def test_attention_in_fp32_leaves_the_rest_in_half(
    name: str, tiny: Bundle, rtx: Library, parsed: list[Network]
) -> None:
    if name == "attention":
        source = decomposed_attention(64)
    else:
        source = typed_source(name, full_model(tiny.source(name, "onnxruntime")), "fp16")
    built = build_one(source, rtx, attention_kernels="fp32")
    assert built.stored.sidecar is not None
    assert built.stored.sidecar.attention_kernels == "fp32"
    assert not kernels(built)[0]
    layers = list(parsed[0].layers())
    types = Counter((ly.type.name, ly.get_output(0).dtype.name) for ly in layers)
    softmaxes = types["SOFTMAX", "FLOAT"]
    assert softmaxes > 0
    blocks = softmaxes - (name == "text_encoder")  # which has one among the taught names
    assert types["MATRIX_MULTIPLY", "FLOAT"] == 2 * blocks
    if name != "attention":
        assert types["MATRIX_MULTIPLY", "HALF"] > 2 * blocks  # of qkv, proj and MLP
        assert types["CONVOLUTION", "FLOAT"] == 0
    outputs = [(t.name, t.dtype) for t in built.stored.sidecar.tensors if t.mode == "output"]
    usual = build_one(source, rtx).stored.sidecar  # not the one that was just built
    assert usual is not None
    assert outputs == [(t.name, t.dtype) for t in usual.tensors if t.mode == "output"]
    assert usual.attention_kernels == "any"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_attention_that_cannot_be_widened_is_refused(precision: str, rtx: Library) -> None:
    with pytest.raises(PlanBuildError, match="no attention in parts and in half precision"):
        build_one(attention(precision), rtx, attention_kernels="fp32")


def quantised(zero: np.generic) -> GraphSource:
    """y = x @ w in INT8 (or UINT8, by the type of `zero`), the rest FP32."""
    tensors = {"scale": np.float32(0.1), "zero": zero, "w": MATRIX}
    tensors["w"] = np.rint(MATRIX * 127).astype(np.int8)
    tensors["w_scale"] = np.full(64, 1 / 127, np.float32)
    tensors["w_zero"] = np.zeros(64, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="product"),
    ]
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    return small_graph(nodes, TensorProto.FLOAT, {"x": [8, 64], "y": [8, 64]}, "int8", **arrays)


def test_the_library_says_what_it_builds_for(rtx: Library) -> None:
    assert {"8.6", "8.9"} <= set(rtx.capabilities)
    assert int(rtx.version.partition(".")[0]) >= 1


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_the_packaged_bundle_builds_in_fp32(
    name: str,
    tiny: Bundle,
    rtx: Library,
    parsed: list[Network],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def configured(*arguments: Any) -> Any:
        config = build_configuration(*arguments)
        assert config.get_flag(rtx.module.BuilderFlag.REQUIRE_USER_ALLOCATION)  # for CUDA graphs
        flags.append(config)
        return config

    flags: list[Any] = []
    build_configuration = build.configure
    monkeypatch.setattr(build, "configure", configured)
    source = tiny.source(name, "onnxruntime")  # its weights are stored as INT8
    built = build_one(source, rtx, "8.6", "8.9")
    assert flags
    sidecar = built.stored.sidecar
    assert sidecar is not None
    assert sidecar.target.capabilities == ("8.6", "8.9")
    described: Graph = getattr(tiny.manifest.graphs, name)
    for mode, specs in (("input", described.inputs), ("output", described.outputs)):
        found = [(t.name, t.dtype, t.shape) for t in sidecar.tensors if t.mode == mode]
        assert found == [
            (s.name, s.dtype, tuple(-1 if isinstance(n, str) else n for n in s.shape))
            for s in specs
        ]
    assert set(parsed[0].types()) <= {"FLOAT", "INT64", "INT32", "BOOL"}
    plan = find_plan(source, PlanHost("tensorrt-rtx", rtx.version, "8.9"))
    assert plan.data == read_plan(built.stored)
    assert len(plan.data) > 10**6


@pytest.mark.parametrize("name", ["encoder", "clip_head", "text_encoder"])
def test_graphs_of_the_packaged_bundle_build_in_fp16(
    name: str, tiny: Bundle, rtx: Library, parsed: list[Network]
) -> None:
    source = typed_source(name, full_model(tiny.source(name, "onnxruntime")), "fp16")
    built = build_one(source, rtx)
    assert ".fp16." in built.stored.path.name
    half, full = (parsed[0].types()[kind] for kind in ("HALF", "FLOAT"))
    assert half > full  # FP32: sums of residuals, norms, softmax, and moves between them
    kinds = Counter(
        (layer.type.name, layer.get_output(0).dtype.name) for layer in parsed[0].layers()
    )
    assert kinds["MATRIX_MULTIPLY", "HALF"] + kinds["CONVOLUTION", "HALF"] > 0
    assert kinds["MATRIX_MULTIPLY", "FLOAT"] + kinds["CONVOLUTION", "FLOAT"] == 0
    assert kinds["NORMALIZATION", "HALF"] + kinds["SOFTMAX", "HALF"] == 0
    tensors = describe_tensors(parsed[0], DEFAULT_AXES)
    assert {t.dtype for t in tensors} <= {"float32", "int64"}  # borders stay as they are


def test_bf16_builds(tiny: Bundle, rtx: Library, parsed: list[Network]) -> None:
    model = full_model(tiny.source("clip_head", "onnxruntime"))
    build_one(typed_source("clip_head", model, "bf16"), rtx)
    assert parsed[0].types()["BF16"] > 0


@pytest.mark.parametrize("name", ["encoder", "clip_head"])
@pytest.mark.parametrize("precision", ["int8", "int8_fp16"])
def test_graphs_of_the_packaged_bundle_build_in_int8(
    precision: str, name: str, tiny: Bundle, rtx: Library, parsed: list[Network]
) -> None:
    model = full_model(tiny.source(name, "onnxruntime"))
    built = build_one(typed_source(name, model, precision), rtx)
    assert f".{precision}." in built.stored.path.name
    layers = parsed[0].layer_types()
    assert layers["QUANTIZE"] > 0
    assert layers["DEQUANTIZE"] >= 2 * layers["QUANTIZE"]  # of the activation, of each weight
    assert ("HALF" in parsed[0].types()) == (precision == "int8_fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8_fp16"])
def test_an_encoder_of_uint8_pixels_builds(
    precision: str, rtx: Library, parsed: list[Network]
) -> None:
    """Both inputs are execution tensors: no shape depends on them."""
    built = build_one(typed_source("encoder", uint8_encoder(), precision), rtx)
    assert built.stored.sidecar is not None
    inputs = {t.name: (t.dtype, t.shape) for t in built.stored.sidecar.tensors if t.mode == "input"}
    assert inputs == {"image_u8": ("uint8", (1, 64, 64, 3)), "image_size": ("int32", (2,))}
    assert not any(tensor.is_shape_tensor for tensor in parsed[0].inputs())
    kinds = Counter(
        (layer.type.name, layer.get_output(0).dtype.name) for layer in parsed[0].layers()
    )
    assert kinds["ELEMENTWISE", "HALF"] == 0  # the normalisation
    assert kinds["CONVOLUTION", "FLOAT" if precision == "fp32" else "HALF"] == 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_attention_is_one_fused_operation(
    precision: str, rtx: Library, parsed: list[Network]
) -> None:
    # It is not marked as decomposable: without one kernel for it the build would fail.
    build_one(attention(precision), rtx)
    layers = parsed[0].layer_types()
    assert (layers["ATTENTION_INPUT"], layers["SOFTMAX"]) == (1, 0)


def test_attention_is_fused_in_either_form_and_in_parts_keeps_fp32_scores(rtx: Library) -> None:
    assert kernels(build_one(attention("fp16"), rtx))[0]  # may add up in FP16, as ViT-B's does
    assert kernels(build_one(decomposed_attention(64), rtx)) == (True, {b"fp32"})
    assert kernels(build_one(attention("fp32"), rtx)) == (False, set())


@pytest.mark.parametrize("name", ["encoder", "clip_head", "text_encoder"])
def test_int8_stored_weights_are_those_of_the_bundle(
    name: str, tiny: Bundle, rtx: Library, parsed: list[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bindings before 10.16 show NumPy 2 the first weight everywhere, by strides of 0."""
    misread = property(lambda layer: np.broadcast_to(np.int8(7), layer.shape))
    monkeypatch.setattr(rtx.module.IConstantLayer, "weights", misread)
    source = tiny.source(name, "onnxruntime")
    monkeypatch.setattr(build._Build, "_build", lambda *_: b"a plan")
    build_one(source, rtx)
    expanded = [held for held in parsed[0].held if isinstance(held, np.ndarray)]
    assert len(expanded) == parsed[0].expanded > 0
    stored = [weight for weight in source.weights.values() if weight.dtype == np.int8]
    for values in expanded:
        assert values.strides[-1] == values.itemsize
        assert any(
            values.shape == weight.shape and np.array_equal(values, weight) for weight in stored
        )


def test_an_int8_weight_that_the_bundle_lacks_is_refused(tiny: Bundle, rtx: Library) -> None:
    source = tiny.source("clip_head", "onnxruntime")
    key = "recogniser.classifier.weight"
    others = {**source.weights, key: source.weights[key].astype(np.float32)}
    with pytest.raises(PlanBuildError, match="no INT8 weight 'recogniser"):
        network._stored(replace(source, weights=others), key, source.weights[key].shape)
    copy = network._stored(source, f"{key}_3", source.weights[key].shape)
    assert copy is source.weights[key]


def test_int8_stored_weights_cannot_be_stripped(tiny: Bundle, rtx: Library) -> None:
    options = BuildOptions(strip_weights=True)
    with pytest.raises(PlanBuildError, match=r"of its weights as INT8.*stored as FP16") as caught:
        build_one(tiny.source("clip_head", "onnxruntime"), rtx, options=options)
    leave_it_out, export = caught.value.steps
    assert leave_it_out == ChangeSettings(("strip_weights",))
    assert export == ExportBundle((("weights_dtype", "fp16"),))


def test_fp32_attention_is_decomposed(rtx: Library, parsed: list[Network]) -> None:
    build_one(attention("fp32"), rtx)
    assert parsed[0].layer_types()["ATTENTION_INPUT"] == 1


def test_the_parsers_own_words_name_the_node(rtx: Library) -> None:
    with pytest.raises(PlanBuildError, match=r"node 'attention' \(Attention\)") as caught:
        build_one(attention("fp16", value_size=48), rtx)
    assert "Key and Value must have the same shape" in str(caught.value)


def test_symmetric_int8_builds(rtx: Library, parsed: list[Network]) -> None:
    build_one(quantised(np.int8(0)), rtx)
    layers = parsed[0].layer_types()
    assert (layers["QUANTIZE"], layers["DEQUANTIZE"]) == (1, 2)
    assert parsed[0].types()["INT8"] == 1


def test_asymmetric_uint8_is_refused(rtx: Library) -> None:
    with pytest.raises(PlanBuildError, match="zero point is not supported"):
        build_one(quantised(np.uint8(128)), rtx)


def test_an_operator_that_it_does_not_have_is_refused(rtx: Library) -> None:
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic")]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    source = small_graph(nodes, TensorProto.FLOAT, {"x": [8, 64], "y": [8, 64]}, "fp32")
    with pytest.raises(PlanBuildError, match="DynamicQuantizeLinear"):
        build_one(source, rtx)


def test_a_graph_that_is_none_is_refused(rtx: Library) -> None:
    with pytest.raises(PlanBuildError, match="cannot take the graph"):
        build_one(GraphSource("encoder", b"\xff\xff not a graph"), rtx)


def test_weights_in_files_and_in_memory_make_the_same_network(
    tiny: Bundle, rtx: Library, parsed: list[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny.source("clip_head", "onnxruntime")
    build_one(source, rtx)
    monkeypatch.setattr(network, "_parse_in_memory", network._parse_in_folder)
    build_one(source, rtx, force=True)
    summaries = [(n.layer_types(), n.types()) for n in parsed]
    assert summaries[0] == summaries[1]


def test_progress_comes_from_the_real_builder(tiny: Bundle, rtx: Library) -> None:
    progress = RecordedProgress()
    source = tiny.source("clip_head", "onnxruntime")
    build_plan(BuildRequest(source, ("8.6",), force=True), rtx, progress)
    kinds = [event[0] for event in progress.events]
    assert kinds[0] == "begin"
    assert kinds.count("begin") == kinds.count("end")


def test_an_interruption_ends_a_real_build(tiny: Bundle, rtx: Library) -> None:
    class Interrupting(RecordedProgress):
        def stage(self, name: str, total: int | None = None, done: int = 0) -> Any:
            raise KeyboardInterrupt

    source = tiny.source("clip_head", "onnxruntime")
    with pytest.raises(KeyboardInterrupt):
        build_plan(BuildRequest(source, ("8.6",), force=True), rtx, Interrupting())


def test_options_of_the_real_builder(tiny: Bundle, rtx: Library) -> None:
    options = BuildOptions(workspace=2**30, level=2)
    built = build_one(tiny.source("clip_head", "onnxruntime"), rtx, options=options)
    assert built.stored.sidecar is not None
    assert built.stored.sidecar.options == options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp32", 350, 400), ("fp16", 170, 220), ("int8_fp16", 85, 170)]
)
def test_vit_b_builds(
    precision: str, least: float, most: float, rtx: Library, parsed: list[Network]
) -> None:
    """SAM's ViT-B encoder at 1024 px, random weights; `least` and `most` in MB of the plan."""
    import torch

    from samclip.export.families.merged import encoder_spec
    from samclip.export.graphs import LoweredGraph
    from samclip.export.models.merged import MergedConfig, MergedModel

    torch.manual_seed(0)
    model = MergedModel(MergedConfig("vit_b")).eval()
    files = LoweredGraph("encoder", lambda form: encoder_spec(model, form)).write(("bias",), 20)
    (full,) = files.models().values()
    built = build_one(typed_source("encoder", full, precision), rtx)
    layers = parsed[0].layer_types()
    assert layers["NORMALIZATION"] >= 24  # two in each of 12 blocks: none was decomposed
    assert (layers["QUANTIZE"] > 0) == (precision == "int8_fp16")
    assert least * 1e6 < built.stored.size < most * 1e6
