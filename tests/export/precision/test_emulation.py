"""Emulated half precision against numpy's and torch's, bit by bit and operation by operation."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from half_graphs import VIT_SIZE, hand_made, run, tiny_sam, vit
from numpy.typing import NDArray
from onnx import helper

from samclip.export.precision.emulation import emulate, half_engine
from samclip.export.precision.half import HalfPrecision, to_half
from samclip.export.precision.keep import DEFAULT_KEEP

Array = NDArray[np.float32]
NOTHING: frozenset[str] = frozenset()
TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
RNG = np.random.default_rng(0)


def hard_numbers() -> Array:
    """Ties, borders of the range and of the normal numbers, and magnitudes of every size."""
    borders = [70000, 65519, 65520, -1e6, 1 + 2**-12, 1 + 2**-11, 1 + 3 * 2**-11, 300, 2049]
    small = [1e-8, 6e-8, 3e-5, 2**-14, 2**-24, 2**-25, 0.0, -0.0, np.inf, -np.inf, np.nan]
    spread = RNG.standard_normal(20000) * 10.0 ** RNG.uniform(-9, 6, 20000)
    return np.concatenate([borders, small, spread]).astype(np.float32)[None]


def rounded(x: Array, dtype: HalfPrecision) -> Array:
    with np.errstate(all="ignore"):
        return x.astype(TYPES[dtype]).astype(np.float32)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_values_round_and_saturate_bit_by_bit(dtype: HalfPrecision) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Mul", ["a", "a"], ["y"])]
    model = emulate(to_half(hand_made(nodes, shape=("n", "m")), dtype, NOTHING))
    x = hard_numbers()
    a = np.abs(rounded(x, dtype))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run(model, x=x)[0], rounded(a * a, dtype))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_no_optimisation_takes_the_rounding_away(level: str) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Mul", ["a", "a"], ["y"])]
    half = to_half(hand_made(nodes, shape=("n",)), "fp16", NOTHING)
    x = np.asarray([70000, 300, 1 + 2**-12], np.float32)
    answers = []
    for model in (half, emulate(half)):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        data = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": x})[0])
    assert answers[1].tolist() == [np.inf, np.inf, 1]
    # Why emulation is needed: ONNX Runtime by itself overflows nowhere.
    if level == "ORT_ENABLE_ALL":
        assert np.isfinite(answers[0]).all()


def test_a_block_of_a_transformer_equals_torch_in_half() -> None:
    """Linear, Gelu, Linear, sum, LayerNormalization, Softmax: one operator after the other."""
    weights = {
        "w1": RNG.standard_normal((64, 128), np.float32) / 8,
        "b1": RNG.standard_normal(128, np.float32),
        "w2": RNG.standard_normal((128, 64), np.float32) / 11,
        "scale": RNG.standard_normal(64, np.float32),
        "bias": RNG.standard_normal(64, np.float32),
    }
    chain = [
        ("MatMul", ["x", "w1"], "a"),
        ("Add", ["a", "b1"], "b"),
        ("Gelu", ["b"], "c"),
        ("MatMul", ["c", "w2"], "d"),
        ("Add", ["x", "d"], "e"),
        ("LayerNormalization", ["e", "scale", "bias"], "f"),
        ("Softmax", ["f"], "y"),
    ]
    nodes = [helper.make_node(op, ins, [out], name=out) for op, ins, out in chain]
    x = RNG.standard_normal((16, 64), np.float32)
    model = hand_made(nodes, weights, shape=(16, 64))
    found = run(emulate(to_half(model, "fp16", NOTHING)), x=x)[0]
    w = {name: torch.from_numpy(array).half() for name, array in weights.items()}
    y = torch.from_numpy(x).half()
    hidden = torch.nn.functional.gelu(y @ w["w1"] + w["b1"])
    normed = torch.nn.functional.layer_norm(y + hidden @ w["w2"], (64,), w["scale"], w["bias"])
    expected = normed.softmax(-1).float().numpy()
    # Sums are ordered differently, which moves a rounding now and then: two units in the last
    # place of the largest value, where FP32 itself is further off in the mean than that is.
    np.testing.assert_allclose(found, expected, atol=2 * 2**-11 * expected.max())
    exact = run(model, x=x)[0]
    assert np.abs(found - expected).mean() < 0.5 * np.abs(found - exact).mean()


def test_each_operator_alone_is_exact_up_to_one_rounding() -> None:
    x = RNG.uniform(-9, 9, (32, 64)).astype(np.float32)
    references = {"Tanh": np.tanh, "Exp": np.exp, "Abs": np.abs}
    for op, reference in references.items():
        model = hand_made([helper.make_node(op, ["x"], ["y"])], shape=("n", "m"))
        found = run(emulate(to_half(model, "fp16", NOTHING)), x=x)
        exact = reference(rounded(x, "fp16").astype(np.float64))
        # Half a unit in the last place is 2^-11; a float32 that lies at a tie may go either way.
        np.testing.assert_allclose(found[0], exact, rtol=2**-11 * 1.001, atol=2**-25)


@pytest.mark.parametrize("keep", [NOTHING, None], ids=["nothing", "default"])
def test_an_encoder_in_half_comes_close_to_fp32_and_is_not_it(keep: frozenset[str] | None) -> None:
    model, image = vit(), RNG.standard_normal((1, 3, VIT_SIZE, VIT_SIZE), np.float32)
    names = DEFAULT_KEEP.nodes("encoder", model) if keep is None else keep
    exact = run(model, image=image)
    for dtype, error in (("fp16", 5e-3), ("bf16", 5e-2)):
        with closing(half_engine(to_half(model, dtype, names))) as engine:
            outputs = engine.run({"image": image})
        for wanted, found in zip(exact, outputs.values(), strict=True):
            difference = np.abs(found.numpy() - wanted).max() / np.abs(wanted).max()
            assert error / 100 < difference < error


def test_emulated_graphs_hold_no_half_but_in_roundings(mobile_sam_checkpoint: Path) -> None:
    half = to_half(tiny_sam("encoder", mobile_sam_checkpoint), "fp16", NOTHING)
    emulated = emulate(half)
    for node in emulated.graph:
        if node.op_type != "Cast":
            assert all(value.dtype != ir.DataType.FLOAT16 for value in node.outputs)
    assert any(v.dtype == ir.DataType.FLOAT16 for n in half.graph for v in n.outputs)


def test_clipping_rounds_once_and_stays_right() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["y"]),
    ]
    weights = {"low": np.float32(0), "high": np.float32(6)}
    emulated = emulate(to_half(hand_made(nodes, weights, shape=("n",)), "fp16", NOTHING))
    x = np.asarray([1000, 2.3, 0.01], np.float32)
    half = x.astype(np.float16)
    with np.errstate(all="ignore"):
        expected = np.clip(half * half, 0, 6).astype(np.float32)
    np.testing.assert_array_equal(run(emulated, x=x)[0], expected)
    assert sum(n.op_type == "Cast" for n in emulated.graph) <= 6


def test_fp32_graphs_come_back_as_they_are() -> None:
    model = vit()
    assert [n.op_type for n in emulate(model).graph] == [n.op_type for n in model.graph]
