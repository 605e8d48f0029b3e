"""Verification: the gate of rounded weights, its measures and its chain; values not finite."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx.parser
import pytest
from onnx import helper
from small_graphs import graph_files, small_graph

from samclip.engines.base import GraphSource
from samclip.errors import ParityError
from samclip.export.graph_files import GraphFiles
from samclip.export.verification import (
    GraphPair,
    Sample,
    compare,
    enforce,
    enforce_rounding,
    measure,
    measure_rounding,
)
from samclip.export.weight_storage import store_weights
from samclip.runtime.bundles.manifest import RoundingRow, WeightsDtype

RNG = np.random.default_rng(0)
IMAGES = {"a.jpg": RNG.random((4, 512), np.float32), "b.jpg": RNG.random((4, 512), np.float32)}
NOWHERE = np.zeros((4, 512), np.float32)  # what the original encoder gave; the chain replaces it


def product(name: str, source: str, result: str) -> GraphFiles:
    nodes = [helper.make_node("MatMul", [source, "w.weight"], [result])]
    weights = {"w.weight": RNG.standard_normal((512, 512), np.float32) / 20}
    return graph_files(
        name, small_graph(name, nodes, {source: (4, 512)}, {result: (4, 512)}, weights)
    )


ENCODER = product("encoder", "image", "features")
DECODER = product("mask_decoder", "features", "low_res_masks")
TEXT = product("text_encoder", "words", "text_embeddings")


def samples() -> list[Sample]:
    found = [Sample("text_encoder", "text", {"words": IMAGES["a.jpg"]}, {})]
    for name, image in IMAGES.items():
        found.append(Sample("encoder", name, {"image": image}, {}))
        found.append(Sample("mask_decoder", name, {"features": NOWHERE}, {}))
    return found


def measured(**dtypes: WeightsDtype) -> list[RoundingRow]:
    graphs = (ENCODER, DECODER, TEXT)
    pairs = [GraphPair(g, store_weights(g, dtypes.get(g.name, "fp32"))) for g in graphs]
    return measure_rounding(pairs, samples())


def test_every_rounded_graph_has_a_row_per_output_and_photo() -> None:
    rows = measured(encoder="fp16", mask_decoder="int8", text_encoder="int8")
    assert [(r.graph, r.image, r.weights_dtype, r.measure) for r in rows] == [
        ("encoder", "a.jpg", "fp16", "cosine"),
        ("encoder", "b.jpg", "fp16", "cosine"),
        ("mask_decoder", "a.jpg", "int8", "mask_iou"),
        ("mask_decoder", "b.jpg", "int8", "mask_iou"),
        ("text_encoder", "text", "int8", "cosine"),
    ]
    assert all(0.9 < row.value < 1 for row in rows)
    enforce_rounding(rows)


def test_a_head_is_judged_behind_the_stored_encoder() -> None:
    """The decoder itself is exact: what it loses, and the limit, come from the encoder."""
    rows = {row.graph: row for row in measured(encoder="int8")}
    assert set(rows) == {"encoder", "mask_decoder"}
    assert (rows["mask_decoder"].weights_dtype, rows["mask_decoder"].limit) == ("int8", 0.95)
    assert rows["mask_decoder"].value < 1


def test_the_encoder_is_not_judged_by_its_heads() -> None:
    assert {row.graph for row in measured(mask_decoder="fp16")} == {"mask_decoder"}
    assert measured() == []


def test_every_variant_is_measured() -> None:
    nodes = [helper.make_node("MatMul", ["image", "w.weight"], ["features"])]
    weights = {"w.weight": RNG.standard_normal((512, 512), np.float32)}
    shapes = {"image": (4, 512)}, {"features": (4, 512)}
    models = [small_graph("encoder", nodes, *shapes, weights) for _ in range(2)]
    encoder = graph_files("encoder", *models)
    own = [sample for sample in samples() if sample.graph == "encoder"]
    rows = measure_rounding([GraphPair(encoder, store_weights(encoder, "fp16"))], own)
    assert len(rows) == 2 * len(IMAGES)


def test_beyond_a_limit_the_message_says_what_to_store_more_finely() -> None:
    good, *_ = measured(text_encoder="int8")
    enforce_rounding([good])
    bad = msgspec.structs.replace(good, value=0.99)
    worse = msgspec.structs.replace(good, measure="difference", value=0.1, limit=0.05)
    with pytest.raises(ParityError, match=r"text_encoder .*0\.9900(?s:.)*0\.1000(?s:.)*=fp16"):
        enforce_rounding([good, bad, worse])
    with pytest.raises(ParityError):
        enforce_rounding([msgspec.structs.replace(good, value=float("nan"))])


def test_cosine_is_the_mean_over_positions() -> None:
    a = np.zeros((1, 2, 1, 2), np.float32)
    a[0, 0] = 3  # both positions along the first axis
    b = a.copy()
    b[0, :, 0, 1] = (0, 5)  # the second position at a right angle
    assert compare("cosine", a, b) == pytest.approx(0.5)
    assert compare("cosine", 7 * a, a) == pytest.approx(1)


def test_mask_iou_takes_all_masks_together() -> None:
    a = np.full((2, 4, 4), -1.0)
    b = a.copy()
    a[0, :2] = 1  # 8 pixels
    b[0, :1] = 1  # 4 of them
    b[1, 0, 0] = 1  # and one elsewhere: 4 / 9
    assert compare("mask_iou", a, b) == pytest.approx(4 / 9)
    assert compare("mask_iou", -abs(a), -abs(b)) == 1


@pytest.mark.parametrize(
    ("measure", "worst"), [("cosine", -1), ("mask_iou", 0), ("difference", np.inf)]
)
def test_what_is_not_finite_or_fits_not_is_worst(measure: str, worst: float) -> None:
    good = np.ones((1, 3))
    assert compare(measure, np.asarray([[1, np.nan, 1]]), good) == worst
    assert compare(measure, np.asarray([[1, np.inf, 1]]), good) == worst
    assert compare(measure, good[:, :2], good) == worst
    assert compare("difference", good, good + 0.25) == 0.25


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_sample_that_is_not_finite_fails_in_any_order(order: tuple[int, int]) -> None:
    image = np.ones((2, 4), np.float32)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[2,4] x) => (float[2,4] y) {y = Neg(x)}'
    )
    source = GraphSource("g", proto.SerializeToString())
    good = Sample("g", "p.jpg", {"x": image}, {"y": -image})
    bad = Sample("g", "p.jpg", {"x": image}, {"y": image * np.nan})
    samples = [(good, bad)[i] for i in order]
    with pytest.raises(ParityError, match="inf"):
        enforce(measure(source, "fp32", samples))
