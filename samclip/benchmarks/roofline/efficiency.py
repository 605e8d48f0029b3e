"""Rows of a report, and tables, made of a roofline.

How the figures of `samclip-bench roofline` are defined.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.records import (
    Arithmetic,
    DeviceEstimate,
    GraphRoofline,
    Rate,
    Roofline,
    Row,
    Unit,
)
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.cli.tables import make_table

KINDS = {"fp32": "FP32 products", "int8": "INT8 products", "copy": "copies, read and written"}


def make_rows(roofline: Roofline) -> tuple[Row, ...]:
    """Give every graph's work, time, and the share of the machine's rate that it reaches."""
    return tuple(row for graph in roofline.graphs for row in _of_graph(graph))


def show_roofline(roofline: Roofline) -> Iterator[Table]:
    """Show the rates, the graphs, and the estimates, a table each."""
    yield _show_rates(roofline.rates)
    yield _show_graphs(roofline)
    if roofline.estimates:
        yield _show_estimates(roofline.estimates)


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


def _show_rates(rates: Sequence[Rate]) -> Table:
    table = make_table("rate of this machine", "best", "how", left=("rate of this machine", "how"))
    for rate in rates:
        unit = "GB/s" if rate.arithmetic == "copy" else "GOP/s"
        how = escape(f"{rate.how}; {rate.threads} threads, best of {rate.runs}")
        table.add_row(KINDS[rate.arithmetic], f"{rate.per_second / 1e9:,.1f} {unit}", how)
    return table


def _show_graphs(roofline: Roofline) -> Table:
    work = ("GMAC", "INT8", "M parameters", "weights", "moved", "median", "GFLOP/s")
    columns = (*work, "reached", "best run", "if memory alone")
    table = make_table("graph", *columns, left=("graph",))
    for graph in roofline.graphs:
        seconds = median(graph.samples).value
        sizes = "".join(f", {size} {axis}" for axis, size in graph.sizes.items())
        name = f"{graph.model}: {graph.graph}, {graph.precision}, {graph.backend}{sizes}"
        table.add_row(
            escape(name),
            f"{graph.all_macs / 1e9:,.2f}",
            f"{graph.macs.get('int8', 0) / max(graph.all_macs, 1):.0%}",
            f"{graph.parameters / 1e6:,.2f}",
            f"{graph.weight_bytes / 1e6:,.1f} MB",
            f"{graph.activation_bytes / 1e6:,.0f} MB",
            f"{seconds * 1e3:,.1f} ms",
            f"{2 * graph.all_macs / seconds / 1e9:,.0f}",
            _share(graph.reached),
            _share(graph.reached_at_best),
            f"{traffic_seconds(graph, roofline.rates) * 1e3:,.1f} ms",
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _show_estimates(estimates: Sequence[DeviceEstimate]) -> Table:
    at = f"ESTIMATE at {estimates[0].fraction:.0%}"
    table = make_table(
        "ESTIMATE: device", "graph", "in", "not faster than", "bound by", at,
        left=("ESTIMATE: device", "graph"),
    )  # fmt: skip
    for entry in estimates:
        table.add_row(
            entry.device,
            escape(f"{entry.model}: {entry.graph}"),
            entry.precision,
            f"{entry.not_below * 1e3:,.2f} ms",
            entry.limit,
            f"{entry.at_fraction * 1e3:,.2f} ms",
        )
    return table


PROTOCOL = (
    "A multiply-accumulate (MAC) is two operations. Those of matrix products, convolutions and "
    "attention are counted from the ONNX graph at the shapes that were run; norms, activations "
    "and additions are not.",
    "'weights': constants that are read, as they are held after loading. 'moved': what nodes read "
    "and write beside them, if each went to memory; engines fuse nodes and have caches.",
    "'reached': the time of the products at the machine's best rate, INT8 products at that of "
    "INT8, divided by the median time of the graph; 'best run': by the shortest.",
    "'if memory alone': the time of 'weights' and 'moved' at the rate of copies. Where it is as "
    "long as the products, unfused steps wait for memory.",
    "Rates are the best of several runs, taken in turn: other work on the machine makes them "
    "smaller, and 'reached' larger.",
)


def rate_of(kind: Arithmetic, rates: Sequence[Rate]) -> float:
    """Give one of the measured rates, per second."""
    return next(rate.per_second for rate in rates if rate.arithmetic == kind)


def ideal_seconds(macs: Mapping[str, int], rates: Sequence[Rate]) -> float:
    """Give the time of the products alone, two operations a MAC.

    What is not INT8 counts at the FP32 rate: CPUs compute FP16 graphs in FP32.
    """
    integer = macs.get("int8", 0)
    floats = sum(macs.values()) - integer
    return 2 * (floats / rate_of("fp32", rates) + integer / rate_of("int8", rates))


def reached(ideal: float, samples: Sequence[float]) -> float:
    """Give the fraction of the rate that the median run reaches."""
    return ideal / statistics.median(samples)


def traffic_seconds(graph: GraphRoofline, rates: Sequence[Rate]) -> float:
    """Give the time of all that is read and written, node by node, at the rate of copies.

    Longer than the products take, it says that a graph run without fusion and caches would wait
    for memory.
    """
    moved = graph.weight_bytes + graph.activation_bytes
    return moved / rate_of("copy", rates)
