"""The operator Attention against its decomposed form: written, measured, evaluated and judged."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from half_graphs import hand_made, make_vit, run
from msgspec.structs import replace
from onnx import helper
from tiny_bundle import tiny_manifest
from torch import nn

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles, with_variants, without_unused
from samclip.export.graphs import GraphSpec, LoweredGraph
from samclip.export.models.attention import LoweredAttention, Lowering, set_attention_lowering
from samclip.export.models.tiny_vit import TinyVitBlock
from samclip.export.options import parse_attention
from samclip.export.precision.draft_bundle import newest_needed
from samclip.export.precision.emulation import emulate
from samclip.export.precision.gates import GateRow, Judgement
from samclip.export.precision.half import to_half
from samclip.export.precision.keep import DEFAULT_KEEP
from samclip.export.precision.ranges import measure_ranges
from samclip.export.precision.variants import full_variant, in_order, reduced_variants

SIDE = 8


class Windows(nn.Module):
    """TinyViT's block alone, 1xSxSxC."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = TinyVitBlock(16, 2, SIDE // 2, 2.0)
        nn.init.normal_(self.block.attn.attention_biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


def spec(lowering: Lowering) -> GraphSpec:
    module = Windows().eval()
    set_attention_lowering(module, lowering)
    return GraphSpec("encoder", module, {"x": torch.rand(1, SIDE, SIDE, 16)}, ("y",))


@pytest.fixture(scope="module")
def files() -> GraphFiles:
    return LoweredGraph("encoder", spec).write(("bias", "fused"), 20)


def extended(files: GraphFiles) -> GraphFiles:
    """With FP16 of every lowering, in the order of preference."""
    models = {
        v: to_half(files.models()[full_variant(files, v).file], "fp16", frozenset())
        for v in reduced_variants(files, "fp16")
    }
    both = with_variants(files, models)
    graph = replace(both.graph, variants=in_order(both.graph.variants))
    return GraphFiles(both.name, graph, both.files)


def test_both_forms_share_weights_and_compute_the_same(files: GraphFiles) -> None:
    plain, fused = files.graph.variants
    assert (plain.opset, fused.opset) == (20, 23)
    assert plain.weights == fused.weights
    assert (plain.needs, [n.version for n in fused.needs]) == ((), ["10.14", "1.7"])
    assert fused.backends == ()  # in FP32 no backend is given it
    models = list(files.models().values())
    operators = [[node.op_type for node in model.graph] for model in models]
    assert [names.count("Attention") for names in operators] == [0, 1]
    assert [names.count("Softmax") for names in operators] == [1, 0]
    x = np.random.default_rng(0).standard_normal((1, SIDE, SIDE, 16), np.float32)
    answers = [run(model, x=x)[0] for model in models]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_vit_and_tiny_vit_take_the_lowering() -> None:
    for module in (make_vit(), Windows()):
        set_attention_lowering(module, "fused")
        found = [m.lowering for m in module.modules() if isinstance(m, LoweredAttention)]
        assert found
        assert set(found) == {"fused"}


def test_newer_libraries_take_it_older_ones_the_decomposed_form(files: GraphFiles) -> None:
    graph = without_unused(extended(files)).graph
    assert [v.file for v in graph.variants] == [
        "encoder.fused.fp16.onnx",
        "encoder.fp16.onnx",
        "encoder.onnx",
    ]
    taken = {
        (backend, version): getattr(graph.variant_for(backend, None, version), "attention", None)
        for backend, version in (
            ("tensorrt", "10.14.1.48"), ("tensorrt", "11.4.0"), ("tensorrt", "10.3.0"),
            ("tensorrt", None), ("tensorrt-rtx", "1.7.1.116"), ("ort-tensorrt", None),
            ("cuda", None),
        )
    }  # fmt: skip
    assert list(taken.values()) == ["fused", "fused", "bias", "bias", "fused", "bias", "bias"]
    assert not any(name.startswith("encoder.fused.onnx") for name in without_unused(files).files)


def test_it_comes_with_another_lowering_and_with_half_precision() -> None:
    assert parse_attention(["fused"], ("fp16",)) == ("chunk", "wide", "bias", "fused")
    assert parse_attention(["fused", "bias"], ("bf16",)) == ("bias", "fused")
    with pytest.raises(ExportError, match="--fp16 or --bf16"):
        parse_attention(["fused"], ("int8",))


def attention(scale: float) -> ir.Model:
    """y = attention of x on itself with a mask of zeros; scores are x . x * `scale`."""
    node = helper.make_node("Attention", ["q", "q", "q", "m"], ["a"], name="attend", scale=scale)
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["q"], name="mul"),
        node,
        helper.make_node("Mul", ["a", "one"], ["y"], name="out"),
    ]
    weights = {"one": np.ones((), np.float32), "m": np.zeros((1, 1, 4, 4), np.float32)}
    model = hand_made(nodes, weights, shape=(1, 2, 4, 8))
    model.graph.opset_imports[""] = 23
    return model


def test_scores_inside_the_operator_are_measured() -> None:
    x = np.full((1, 2, 4, 8), 100, np.float32)
    found = measure_ranges(attention(1.0), [{"x": x}])
    scores = next(r for r in found.ranges if r.tensor == "attend_scores")
    assert scores.largest == pytest.approx(8 * 100**2)
    assert [kept.node for kept in found.beyond("fp16")] == ["attend"]
    scaled = measure_ranges(attention(0.1), [{"x": x}])  # 8,000, but 80,000 before
    assert [kept.reason for kept in scaled.beyond("fp16")] == [
        "a sum beyond the range, not yet scaled"
    ]
    assert measure_ranges(attention(0.1), [{"x": x / 2}]).beyond("fp16") == ()


def test_half_precision_is_evaluated_as_a_kernel_with_half_scores() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 8)).astype(np.float32)
    model = attention(0.5)
    half = to_half(model, "fp16", DEFAULT_KEEP.nodes("encoder", model))
    typed = next(node for node in half.graph if node.op_type == "Attention")
    assert typed.outputs[0].dtype == ir.DataType.FLOAT16
    assert "softmax_precision" not in typed.attributes  # TensorRT refuses it
    (got,) = run(emulate(half), x=x)
    rounded = x.astype(np.float16).astype(np.float32)
    scores = rounded @ rounded.swapaxes(-1, -2) * 0.5
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    expected = shares / shares.sum(-1, keepdims=True) @ rounded
    np.testing.assert_allclose(got, expected, atol=4e-3)  # 11 bits, scores below 8, values below 2
    assert np.abs(got - expected).max() > 1e-4
    np.testing.assert_array_equal(got, got.astype(np.float16))
    with np.errstate(all="ignore"):
        (broken,) = run(emulate(half), x=np.full_like(x, 100))  # 80,000 before the scale
    assert not np.isfinite(broken).all()
    brain = to_half(model, "bf16", frozenset())
    assert "Attention" in {node.op_type for node in emulate(brain).graph}


def test_gates_judge_both_forms(files: GraphFiles) -> None:
    graphs = replace(tiny_manifest().graphs, encoder=extended(files).graph)
    assert newest_needed(tiny_manifest(graphs=graphs), "fp16") == "10.14"
    assert newest_needed(tiny_manifest(), "fp16") is None
    row = GateRow(measure="mask_iou_mean", value=0.99, limit=0.5, samples=1)
    bad = GateRow(measure="mask_iou_mean", value=0.4, limit=0.5, samples=1)
    joined = Judgement("fp16", 4, (row,)).joined(Judgement("fp16", 4, (bad,)), "fused")
    assert [r.attention for r in joined.rows] == [None, "fused"]
    assert [r.attention for r in joined.failed] == ["fused"]
