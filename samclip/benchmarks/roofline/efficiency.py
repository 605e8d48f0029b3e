"""Efficiency of graphs: how near their runs come to this machine's rates; rows and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from samclip.benchmarks.formats import digits, large, mebibytes, percent, seconds
from samclip.benchmarks.measurements import (
    Arithmetic,
    DeviceEstimate,
    GraphRoofline,
    Rate,
    Roofline,
)
from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.benchmarks.tables import Column, Table, text_columns

KINDS = {"fp32": "FP32 products", "int8": "INT8 products", "copy": "copies, read and written"}
GRAPH_COLUMNS = (
    *text_columns("graph", "model"),
    Column("GMAC", lambda macs: digits(macs / 1e9)),
    Column("in INT8", percent),
    Column("parameters", large),
    Column("weights", mebibytes),
    Column("moved", mebibytes),
    Column("median", seconds),
    Column("GFLOP/s", lambda rate: digits(rate / 1e9)),
    Column("reached", percent),
    Column("best run", percent),
    Column("if memory alone", seconds),
)
PROTOCOL = (
    "A multiply-accumulate (MAC) is two operations. Those of matrix products, convolutions and "
    "attention are counted from the ONNX graph at the shapes that were run; norms, activations "
    "and additions are not.",
    "'weights': constants that are read, as they are held after loading. 'moved': what nodes read "
    "and write besides them, if each went to memory; engines fuse nodes and have caches.",
    "'reached': the time of the products at the machine's best rate, INT8 products at that of "
    "INT8, divided by the median time of the graph; 'best run': by the shortest.",
    "'if memory alone': the time of 'weights' and 'moved' at the rate of copies. Where it is as "
    "long as the products, unfused steps wait for memory.",
    "Rates are the best of several runs, taken in turn: other work on the machine makes them "
    "smaller, and 'reached' larger.",
)


def rate_of(kind: Arithmetic, rates: Sequence[Rate]) -> float:
    """Return one of the measured rates, per second."""
    return next(rate.per_second for rate in rates if rate.arithmetic == kind)


def ideal_seconds(macs: Mapping[str, int], rates: Sequence[Rate]) -> float:
    """Return the time of the products alone, two operations a MAC.

    What is not INT8 counts at the FP32 rate: CPUs compute FP16 graphs in FP32.
    """
    integer = macs.get("int8", 0)
    floats = sum(macs.values()) - integer
    return 2 * (floats / rate_of("fp32", rates) + integer / rate_of("int8", rates))


def reached(ideal: float, samples: Sequence[float]) -> float:
    """Return the fraction of the rate that the median run reaches."""
    return ideal / statistics.median(samples)


def traffic_seconds(graph: GraphRoofline, rates: Sequence[Rate]) -> float:
    """Return the time of all that is read and written, node by node, at the rate of copies.

    Longer than the products take, it says that a graph run without fusion and caches would wait
    for memory.
    """
    moved = graph.weight_bytes + graph.activation_bytes
    return moved / rate_of("copy", rates)


def make_rows(roofline: Roofline) -> tuple[Row, ...]:
    """Return every graph's work, time, and the share of the machine's rate that it reaches."""
    return tuple(row for graph in roofline.graphs for row in _of_graph(graph))


def _of_graph(graph: GraphRoofline) -> Iterator[Row]:
    exact: tuple[tuple[str, float, Unit], ...] = (
        ("multiply-accumulates", graph.all_macs, "count"),
        ("parameters", graph.parameters, "count"),
        ("weights read", graph.weight_bytes, "bytes"),
        ("activations moved", graph.activation_bytes, "bytes"),
    )
    for measure, value, unit in exact:
        estimate = Estimate(value, value, value, 1, 1)
        yield make_row(graph.model, measure, graph.graph, estimate, unit, detail=True)
    time = median(graph.samples)
    yield make_row(graph.model, "run", graph.graph, time, "seconds", detail=True)
    if graph.ideal is not None:
        value, low, high = (graph.ideal / end for end in (time.value, time.high, time.low))
        share = Estimate(value, low, high, time.n, 1)
        yield make_row(graph.model, "share of the machine's rate", graph.graph, share, detail=True)


def rates_table(rates: Sequence[Rate]) -> Table:
    """Lay out what this machine does at best; one multiply-accumulate is two operations."""
    rows = [
        (
            KINDS[rate.arithmetic],
            f"{large(rate.per_second)}{'B/s' if rate.arithmetic == 'copy' else 'OP/s'}",
            f"{rate.how}; {rate.threads} threads, best of {rate.runs}",
        )
        for rate in rates
    ]
    columns = (*text_columns("rate of this machine"), Column("best"), *text_columns("how"))
    return Table(columns, rows)


def graphs_table(roofline: Roofline) -> Table:
    """Lay out the work of each graph, its time, and what it reaches."""
    rows = []
    for graph in roofline.graphs:
        time = statistics.median(graph.samples)
        sizes = "".join(f", {size} {axis}" for axis, size in graph.sizes.items())
        rows.append((
            f"{graph.graph}{sizes}",
            f"{graph.model}, {graph.backend}, {graph.precision}",
            graph.all_macs,
            graph.macs.get("int8", 0) / max(graph.all_macs, 1),
            graph.parameters,
            graph.weight_bytes,
            graph.activation_bytes,
            time,
            2 * graph.all_macs / time,
            graph.reached,
            graph.reached_at_best,
            traffic_seconds(graph, roofline.rates),
        ))  # fmt: skip
    return Table(GRAPH_COLUMNS, rows)


def estimates_table(estimates: Sequence[DeviceEstimate]) -> Table:
    """Lay out estimates for devices, each marked as such; `estimates` are not empty."""
    columns = (
        *text_columns("ESTIMATE: device", "graph", "in"),
        Column("not faster than", seconds),
        *text_columns("bound by"),
        Column(f"ESTIMATE at {percent(estimates[0].fraction)}", seconds),
    )
    rows = [
        (
            entry.device,
            f"{entry.model}: {entry.graph}",
            entry.precision,
            entry.not_below,
            entry.limit,
            entry.at_fraction,
        )
        for entry in estimates
    ]
    return Table(columns, rows)
