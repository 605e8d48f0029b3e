"""The range report: its measurements and findings, and an overflowing checkpoint that it mends."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from half_graphs import VIT_SIZE, hand_made, make_vit, run, vit_graph
from numpy.typing import NDArray
from onnx import helper
from own_process import run_alone
from PIL import Image

from samclip.errors import ExportError
from samclip.export.precision.emulation import emulate
from samclip.export.precision.half import to_half
from samclip.export.precision.keep import DEFAULT_KEEP
from samclip.export.precision.ranges import RangeReport, measure_ranges
from samclip.runtime.assets import packaged_photos

Array = NDArray[np.float32]
FACTOR = 2.0**22  # a power of two: scaling back is exact


def photo() -> Array:
    image = Image.open(packaged_photos() / "coffee.jpg").convert("RGB").resize((VIT_SIZE, VIT_SIZE))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None]
    return (pixels - 120) / 58


def overflowing(channel: int = 3) -> ir.Model:
    """A ViT in whose first block one channel of the values is scaled up, and down again behind."""
    model = make_vit()
    attention, width = model.blocks[0].attn, model.config.width
    with torch.no_grad():
        attention.qkv.weight[2 * width + channel] *= FACTOR
        attention.qkv.bias[2 * width + channel] *= FACTOR
        attention.proj.weight[:, channel] /= FACTOR
    return vit_graph(model)


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_an_overflowing_checkpoint_is_found_and_mended() -> None:
    model, image = overflowing(), photo()
    exact = run(model, image=image)
    default = DEFAULT_KEEP.nodes("encoder", model)
    with np.errstate(all="ignore"):
        broken = run(emulate(to_half(model, "fp16", default)), image=image)
        assert not cosine(broken[1], exact[1]) > 0.9  # NaN must not pass
    found = measure_ranges(model, [{"image": image}]).beyond("fp16")
    operators = {n.name: n.op_type for n in model.graph}
    assert 4 <= len(found) < 20
    assert [operators[kept.node] for kept in found].count("MatMul") == 3  # qkv, values, proj
    assert all(kept.largest > kept.limit == 65504 for kept in found)
    mended = to_half(model, "fp16", default | {kept.node for kept in found})
    for got, wanted in zip(run(emulate(mended), image=image), exact, strict=True):
        assert cosine(got, wanted) > 0.9995


def test_every_value_is_measured_over_all_feeds() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "three"], ["a"], name="mul"),
        helper.make_node("Neg", ["a"], ["y"], name="neg"),
    ]
    model = hand_made(nodes, {"three": np.float32(3)})
    feeds = [{"x": np.full((4, 8), value, np.float32)} for value in (1, -7, 2)]
    report = measure_ranges(model, iter(feeds))
    assert report.samples == 3
    assert [(r.tensor, r.largest, r.node, r.op_type, r.readers) for r in report.ranges] == [
        ("x", 7, "", "", ("mul",)),
        ("a", 21, "mul", "Mul", ("neg",)),
        ("y", 21, "neg", "Neg", ()),
    ]
    assert [r.tensor for r in report.largest(1)] == ["a"]
    assert report.beyond("fp16") == ()
    assert [kept.node for kept in report.beyond("fp16", headroom=65504 / 20)] == ["mul", "neg"]


def measured(nodes: list[tuple[str, str, str]], value: float, **weights: object) -> RangeReport:
    made = [helper.make_node(op, ins.split(), [out], name=out) for op, ins, out in nodes]
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    model = hand_made(made, arrays)
    return measure_ranges(model, [{"x": np.full((4, 8), value, np.float32)}])


def test_values_beyond_the_range_name_maker_and_readers() -> None:
    chain = [("Mul", "x c", "made"), ("Tanh", "made", "read"), ("Abs", "read", "y")]
    report = measured(chain, 70.0, c=np.float32(1000))
    assert [(k.node, k.tensor, k.largest) for k in report.beyond("fp16")] == [
        ("made", "made", 70000),
        ("read", "made", 70000),
    ]
    assert report.beyond("bf16") == ()


@pytest.mark.parametrize("square", ["Mul", "Pow", "ReduceL2"])
def test_squares_overflow_from_256_on(square: str) -> None:
    operands = {"Mul": "a a", "Pow": "a two", "ReduceL2": "a"}[square]
    chain = [("Neg", "x", "a"), (square, operands, "squared"), ("Sqrt", "squared", "y")]
    low, high = (measured(chain, value, two=np.float32(2)) for value in (250.0, 257.0))
    assert low.beyond("fp16") == ()
    kept = {k.node: k for k in high.beyond("fp16")}
    assert kept["squared"].limit < 256 < kept["squared"].largest == 257
    assert "a" not in kept


def test_a_mean_is_judged_by_its_sum() -> None:
    report = measured([("ReduceMean", "x", "mean"), ("Neg", "mean", "y")], 3000.0)
    (kept,) = report.beyond("fp16")
    assert (kept.node, kept.largest, kept.limit) == ("mean", 3000, 65504 / 32)


def test_infinite_masks_do_not_count_and_nan_is_refused() -> None:
    mask = np.where(np.arange(8) < 4, 0, -np.inf).astype(np.float32)
    report = measured([("Add", "x m", "a"), ("Softmax", "a", "y")], -9.0, m=mask)
    assert {r.tensor: r.largest for r in report.ranges}["a"] == 9
    with pytest.raises(ExportError, match="NaN from 'y'"):
        measured([("Sqrt", "x", "y")], -1.0)


def test_no_feeds_is_an_error() -> None:
    with pytest.raises(ExportError, match="photos"):
        measure_ranges(hand_made([helper.make_node("Neg", ["x"], ["y"])]), [])


CHAIN = """
import numpy as np
from half_graphs import hand_made
from onnx import helper
from own_process import peak
from samclip.export.precision.tensor_statistics import observe
from samclip.export.precision.ranges import measure_ranges

names = ["x", *(f"v{i}" for i in range(40)), "y"]
nodes = [helper.make_node("Neg", [a], [b]) for a, b in zip(names, names[1:])]
model = hand_made(nodes, shape=("n", "m"))
used = []
for side in (8, 2048):
    feeds = [{"x": np.ones((side, side), np.float32)}]
    MEASURE
    used.append(peak())
print((used[1] - used[0]) // 2**20)
"""


@pytest.mark.parametrize(
    "measure",
    ["measure_ranges(model, feeds)", 'list(observe(model, names, ("min", "max"), feeds))'],
)
def test_values_are_freed_as_soon_as_they_are_measured(measure: str) -> None:
    """Forty values of 16 MiB in a chain: a few of them at a time, in MiB."""
    assert run_alone(CHAIN.replace("MEASURE", measure)) < 200
