"""Rates measured, fractions reached, and estimates from published rates."""

from __future__ import annotations

import pytest
from onnx import load_from_string

from samclip.benchmarks.measurements import GraphRoofline, Rate
from samclip.benchmarks.roofline import rates as rates_module
from samclip.benchmarks.roofline.count import count
from samclip.benchmarks.roofline.efficiency import ideal_seconds, rate_of, reached, traffic_seconds
from samclip.benchmarks.roofline.jetson_estimates import DEVICES, FRACTION, NOTE, estimate
from samclip.benchmarks.roofline.rates import (
    RateGraph,
    convolution,
    matrix_product,
    measure_rates,
    quantised_product,
)
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.engines.registry import get_backend
from samclip.progress import SILENT

RATES = tuple(
    Rate(arithmetic=kind, per_second=speed, how="made up", threads=2, runs=1)
    for kind, speed in (("fp32", 100e9), ("int8", 400e9), ("copy", 10e9))
)


def graph(macs: dict[str, int], **fields: int) -> GraphRoofline:
    sizes = {"parameters": 1, "weight_bytes": 10**6, "activation_bytes": 10**9, "io_bytes": 10**6}
    return GraphRoofline(
        model="m", graph="encoder", backend="onnxruntime", precision="fp32", sizes={}, macs=macs,
        samples=(1.0, 1.0, 4.0), ideal=None, reached=None, operators=(), **(sizes | fields),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "kind"),
    [(matrix_product(64), "float32"), (convolution(), "float32"), (quantised_product(64), "int8")],
)
def test_rate_graphs_do_the_work_that_they_say(made: RateGraph, kind: str) -> None:
    assert load_from_string(made.source.onnx).graph.node
    found = count(read_graph(made.source.onnx, "rate")).by_arithmetic()
    assert found == {kind: made.operations // 2}


def test_rates_are_measured_on_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "SIZES", (64,))
    monkeypatch.setattr(rates_module, "COPIED", 2**20)
    found = measure_rates([get_backend("onnxruntime")], 1, SILENT, rounds=2)
    assert [rate.arithmetic for rate in found] == ["fp32", "int8", "copy"]
    assert all(rate.per_second > 0 and rate.runs == 2 for rate in found)
    assert "onnxruntime" in found[1].how


def test_the_ideal_takes_int8_at_its_own_rate() -> None:
    macs = {"float32": 50_000_000_000, "int8": 100_000_000_000}
    assert ideal_seconds(macs, RATES) == pytest.approx(1.0 + 0.5)
    assert reached(0.5, [1.0, 1.0, 4.0]) == 0.5
    assert rate_of("copy", RATES) == 10e9
    assert traffic_seconds(graph(macs), RATES) == pytest.approx(0.1001)


def test_an_estimate_is_bound_by_products_or_memory() -> None:
    entries = estimate([graph({"float32": 10**11}), graph({"float32": 10}, weight_bytes=10**9)])
    products, memory = entries[0], entries[len(DEVICES)]
    nano = DEVICES[0]
    assert products.limit == "products"
    assert products.not_below == pytest.approx(2e11 / nano.fp16)
    assert memory.limit == "memory"
    assert memory.not_below == pytest.approx((10**9 / 2 + 10**6) / nano.bandwidth)
    assert all(entry.at_fraction == entry.not_below / FRACTION for entry in entries)
    assert all(entry.precision == "fp16" for entry in entries)


def test_an_int8_graph_is_estimated_in_int8() -> None:
    found = estimate([graph({"int8": 10**11, "float32": 10**10})])
    nano = DEVICES[0]
    assert found[0].precision == "int8"
    assert found[0].not_below == pytest.approx(2e11 / nano.int8 + 2e10 / nano.fp16)


def test_published_rates_are_dense_and_have_their_source() -> None:
    assert "ESTIMATE" in NOTE
    for device in DEVICES:
        assert device.source
        assert 1.9 < device.int8 / device.fp16 < 2.1
