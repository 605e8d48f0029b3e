"""Typed half-precision graphs: valid, with as few casts as possible, kept nodes in FP32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from half_graphs import check, clip_head, hand_made, operators, run, tiny_sam, vit, vit_b
from onnx import NodeProto, helper

from samclip.errors import ExportError
from samclip.export.graph_files import externalise
from samclip.export.precision.emulation import emulate
from samclip.export.precision.half import DATA_TYPES, HalfPrecision, casts, to_half
from samclip.export.precision.keep import DEFAULT_KEEP, KeepList, parse_keep

NOTHING: frozenset[str] = frozenset()
F32, F16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
GRAPHS: dict[str, Callable[[Path], ir.Model]] = {
    "vit": lambda _: vit(),
    "encoder": partial(tiny_sam, "encoder"),
    "clip_head": lambda _: clip_head(),
    "mask_decoder": partial(tiny_sam, "mask_decoder"),
}


def node(op: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=f"{op}.{outputs}", **attributes
    )


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("keep", [DEFAULT_KEEP, KeepList()], ids=["default", "nothing"])
@pytest.mark.parametrize("name", list(GRAPHS))
def test_real_graphs_are_well_typed(
    name: str, keep: KeepList, dtype: HalfPrecision, mobile_sam_checkpoint: Path
) -> None:
    model = GRAPHS[name](mobile_sam_checkpoint)
    half = to_half(model, dtype, keep.nodes("encoder", model))
    check(half)
    for values in (half.graph.inputs, half.graph.outputs):
        assert {value.dtype for value in values} <= {F32, ir.DataType.INT64}
    assert [v.name for v in half.graph.outputs] == [v.name for v in model.graph.outputs]
    assert all(v.dtype == F32 for v in model.graph.outputs)  # the original is as it was


def test_without_a_keep_list_only_the_border_is_cast() -> None:
    half = to_half(vit(), "fp16", NOTHING)
    assert len(list(casts(half))) == 1 + len(half.graph.outputs)
    assert operators(half, F32) == []
    assert operators(half, F16).count("LayerNormalization") == 6


def test_kept_nodes_cost_one_cast_on_either_side() -> None:
    names = DEFAULT_KEEP.nodes("encoder", vit())
    half = to_half(vit(), "fp16", names)
    kept = {n.name: n for n in half.graph if n.name in names}
    assert len(kept) == len(names)
    for kept_node in kept.values():
        assert all(v is None or v.dtype == F32 for v in (*kept_node.inputs, *kept_node.outputs))
    # Per block: two norms and a softmax in and out, two branches into a sum, and its border.
    assert len(list(casts(half))) <= 2 * 6 + 2 * 4 + 3


def test_neighbours_in_fp32_and_what_lies_between_exchange_fp32() -> None:
    nodes = [
        node("Tanh", "x", "a"),
        node("Exp", "a", "b"),
        node("Transpose", "b", "c", perm=[1, 0]),
        node("Sqrt", "c", "d"),
        node("Log", "d", "e"),
        node("Transpose", "e", "y", perm=[1, 0]),
    ]
    half = to_half(hand_made(nodes), "fp16", frozenset({"Exp.b", "Sqrt.d", "Log.e"}))
    check(half)
    # In, up in front of Exp; behind Log nothing is half, so that the output is as exact as Log.
    assert operators(half, F16) == ["Tanh"]
    assert len(list(casts(half))) == 2


def test_moves_behind_kept_nodes_are_half_where_half_is_wanted() -> None:
    nodes = [
        node("Exp", "x", "a"),
        node("Transpose", "a", "b", perm=[1, 0]),
        node("Tanh", "b", "y"),
    ]
    half = to_half(hand_made(nodes), "fp16", frozenset({"Exp.a"}))
    assert operators(half, F16) == ["Transpose", "Tanh"]


def test_variants_share_the_weights() -> None:
    _, alone = externalise({"a.onnx": vit().clone()}, "w.safetensors")
    models = {"a.onnx": vit().clone(), "b.onnx": to_half(vit(), "fp16", NOTHING)}
    _, shared = externalise(models, "w.safetensors")
    assert len(shared) == len(alone)


def test_a_weight_is_cast_once_and_a_small_constant_stored_in_half() -> None:
    weights = {"w": np.ones((32, 32), np.float32), "c": np.float32(0.1)}
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("Mul", "b c", "y")]
    half = to_half(hand_made(nodes, weights, shape=(4, 32)), "fp16", NOTHING)
    stored = {name: v.dtype for name, v in half.graph.initializers.items()}
    assert stored == {"w": F32, "c_fp16": F16}
    assert sum(n.op_type == "Cast" for n in half.graph) == 3


@pytest.mark.parametrize("value", [-1e9, 70000.0])
def test_constants_beyond_fp16_keep_their_node_exact(value: float) -> None:
    nodes = [node("Mul", "x c", "a"), node("Tanh", "a", "y")]
    model = hand_made(nodes, {"c": np.float32(value)})
    assert operators(to_half(model, "fp16", NOTHING), F32) == ["Mul"]
    assert operators(to_half(model, "bf16", NOTHING), F32) == []


def test_what_guards_a_division_does_not_become_zero() -> None:
    nodes = [
        node("Abs", "x", "a"),
        node("Max", "a guard", "b"),
        node("Transpose", "b", "c", perm=[0, 1]),
        node("Div", "x c", "d"),
        node("Tanh", "d", "y"),
    ]
    half = to_half(hand_made(nodes, {"guard": np.float32(1e-9)}), "fp16", NOTHING)
    check(half)
    assert operators(half, F32) == ["Max", "Transpose", "Div"]
    zero = np.zeros((4, 8), np.float32)
    np.testing.assert_array_equal(run(emulate(half), x=zero)[0], zero)


def test_shapes_are_taken_of_what_is_there() -> None:
    nodes = [node("Shape", "x", "s"), node("Tanh", "x", "t"), node("Reshape", "t s", "y")]
    half = to_half(hand_made(nodes), "fp16", NOTHING)
    check(half)
    assert len(list(casts(half))) == 2


def test_masks_of_minus_infinity_are_half() -> None:
    model = hand_made(
        [node("Add", "x c", "a"), node("Softmax", "a", "y")], {"c": np.float32(-np.inf)}
    )
    assert operators(to_half(model, "fp16", NOTHING), F32) == []


def test_inputs_that_do_not_carry_the_type_stay_as_they_are() -> None:
    """Scales of Resize, indices of Gather, shapes; exponents and bounds change with their node."""
    nodes = [
        node("Reshape", "x shape", "a"),
        node("Resize", "a  scales", "b", mode="linear"),
        node("Gather", "b index", "c", axis=2),
        node("Pow", "c two", "d"),
        node("ReduceMean", "d axes", "e", keepdims=0),
        node("Clip", "e  high", "y"),
    ]
    nodes[1] = helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="linear", name="r")
    nodes[5] = helper.make_node("Clip", ["e", "", "high"], ["y"], name="clip")
    weights = {
        "shape": np.asarray([1, 1, 4, 8]),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
        "index": np.asarray([0, 3]),
        "two": np.float32(2),
        "axes": np.asarray([0, 1]),
        "high": np.float32(6),
    }
    half = to_half(hand_made(nodes, weights), "fp16", NOTHING)
    check(half)
    stored = {name: v.dtype for name, v in half.graph.initializers.items()}
    assert (stored["scales"], stored["two_fp16"], stored["high_fp16"]) == (F32, F16, F16)
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_allclose(run(half, x=x)[0], run(hand_made(nodes, weights), x=x)[0], atol=2e-3)


def quantised(scale: float) -> ir.Model:
    weights = {
        "w": np.ones((8, 8), np.int8),
        "s": np.full(8, scale, np.float32),
        "sx": np.float32(0.01),
        "zx": np.int8(0),
    }
    nodes = [
        node("Tanh", "x", "t"),
        node("QuantizeLinear", "t sx zx", "q"),
        node("DequantizeLinear", "q sx zx", "d"),
        node("DequantizeLinear", "w s", "dw", axis=1),
        node("MatMul", "d dw", "y"),
    ]
    return hand_made(nodes, weights)


def test_quantised_graphs_take_half_scales() -> None:
    half = to_half(quantised(0.25), "fp16", NOTHING)
    check(half)
    assert {v.dtype for v in half.graph.initializers.values()} == {F16, ir.DataType.INT8}
    assert operators(half, F32) == []


def test_scales_that_half_cannot_hold_stay_fp32() -> None:
    half = to_half(quantised(1e-7), "fp16", NOTHING)
    check(half)
    assert operators(half, F32) == ["DequantizeLinear"]


def test_bf16_takes_convolutions_from_opset_22_on() -> None:
    older, newer = (to_half(vit(opset), "bf16", NOTHING) for opset in (20, 22))
    assert set(operators(older, F32)) == {"Conv"}
    assert operators(newer, F32) == []
    check(newer)


def test_an_unknown_name_and_a_branch_are_refused() -> None:
    model = hand_made([node("Tanh", "x", "y")])
    with pytest.raises(ExportError, match="'nowhere'"):
        to_half(model, "fp16", frozenset({"nowhere"}))
    names = {value: helper.make_tensor_value_info(value, 1, None) for value in ("p", "q")}
    branches = [helper.make_graph([node("Tanh", "x", v)], v, [], [names[v]]) for v in names]
    nodes = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Cast", "s", "b", to=9),
        node("If", "b", "y", then_branch=branches[0], else_branch=branches[1]),
    ]
    with pytest.raises(ExportError, match="branches"):
        to_half(hand_made(nodes), "fp16", NOTHING)


def test_a_graph_kept_whole_is_fp32() -> None:
    keep = parse_keep(["encoder"]).nodes("encoder", vit())
    assert list(casts(to_half(vit(), "fp16", keep))) == []


def test_types_of_the_table() -> None:
    assert DATA_TYPES == {"fp16": F16, "bf16": ir.DataType.BFLOAT16}


@pytest.mark.slow
def test_vit_b_at_full_size_is_well_typed() -> None:
    model = vit_b(1024)
    names = DEFAULT_KEEP.nodes("encoder", model)
    half = to_half(model, "fp16", names)
    check(half)
    # Per block: two norms, two sums and a softmax; the neck's two norms.
    assert len(names) == 12 * 5 + 2
    assert len(list(casts(half))) <= 2 * len(names) + 3
