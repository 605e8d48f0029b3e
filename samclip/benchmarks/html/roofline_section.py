"""How near graphs come to what the machine can do, and estimates for devices nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import (
    NONE,
    PERCENT,
    digits,
    large,
    mebibytes,
    percent,
    seconds,
)
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.roofline.figures import KINDS
from samclip.benchmarks.roofline.reach import traffic_seconds
from samclip.benchmarks.roofline.records import DeviceEstimate, GraphRoofline, Rate, Roofline

WORK = ["graph", "model", "GMAC", "in INT8", "parameters", "weights", "moved", "median"]
REACH = ["GFLOP/s", "reached", "best run", "if memory alone"]


def roofline_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where there is no roofline."""
    for source in sources.all:
        found = source.report.roofline
        if found is not None:
            yield el("h2", "How near to the machine's limit", id="roofline")
            yield el("p", *_rates(found.rates), class_="soft")
            yield from _reached(found)
            yield _work(found)
            yield from _estimates(found)


def _rates(rates: Sequence[Rate]) -> Iterator[str]:
    yield "Measured at best: "
    parts = [
        f"{KINDS[rate.arithmetic]} {large(rate.per_second)}"
        f"{'B/s' if rate.arithmetic == 'copy' else 'OP/s'} ({rate.how}, {rate.threads} threads)"
        for rate in rates
    ]
    yield f"{'; '.join(parts)}. One multiply-accumulate is two operations."


def _reached(found: Roofline) -> Iterator[Element]:
    several = len({graph.model for graph in found.graphs}) > 1
    series = [
        Series(_name(graph, several), [graph.reached * 100])
        for graph in found.graphs
        if graph.reached is not None
    ]
    if series:
        label = "Share of the machine's rate of products that each graph reaches, in percent"
        drawing = bars(series, PERCENT, label)
        title = el("h3", "Share of the rate of products reached")
        yield el("div", el("figure", title, drawing), class_="plots")


def _name(graph: GraphRoofline, several: bool) -> str:
    return f"{graph.graph}, {graph.model}" if several else f"{graph.graph}, {graph.precision}"


def _work(found: Roofline) -> Element:
    rows: list[list[Child]] = []
    for graph in found.graphs:
        time = median(graph.samples)
        sizes = "".join(f", {size} {axis}" for axis, size in graph.sizes.items())
        rows.append([
            f"{graph.graph}{sizes}",
            f"{graph.model}, {graph.backend}, {graph.precision}",
            digits(graph.all_macs / 1e9),
            percent(graph.macs.get("int8", 0) / max(1, graph.all_macs)),
            large(graph.parameters),
            mebibytes(graph.weight_bytes),
            mebibytes(graph.activation_bytes),
            seconds(time),
            digits(2 * graph.all_macs / time / 1e9),
            _share(graph.reached),
            _share(graph.reached_at_best),
            seconds(traffic_seconds(graph, found.rates)),
        ])  # fmt: skip
    return table([*WORK, *REACH], rows, left=2)


def _share(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _estimates(found: Roofline) -> Iterator[Element]:
    if not found.estimates:
        return
    yield el("h3", "ESTIMATE for devices that were not measured")
    yield el("p", found.estimate_note, class_="note")
    told = "In each cell: not faster than; then the time at that fraction. (memory): bound by it."
    yield el("p", told, class_="soft")
    yield _estimate_table(found.estimates)
    sources = sorted({f"{entry.device}: {entry.source}." for entry in found.estimates})
    listed = el("ul", *(el("li", line) for line in sources))
    yield el("details", el("summary", "Where the rates are published"), listed)


def _estimate_table(estimates: Sequence[DeviceEstimate]) -> Element:
    """Put graphs below each other and devices side by side: the bound, and time at the fraction."""
    devices = list(dict.fromkeys(entry.device for entry in estimates))
    rows: dict[tuple[str, str], dict[str, Child]] = {}
    for entry in estimates:
        name = f"{entry.graph} in {entry.precision}"
        rows.setdefault((entry.model, name), {})[entry.device] = _estimate(entry)
    head = ["graph", *(f"ESTIMATE: {device}" for device in devices)]
    several = len({model for model, _ in rows}) > 1
    return table(
        head,
        [
            [f"{name}, {model}" if several else name, *(cells.get(device) for device in devices)]
            for (model, name), cells in rows.items()
        ],
    )


def _estimate(entry: DeviceEstimate) -> Element:
    bound = " (memory)" if entry.limit == "memory" else ""
    share = f"{seconds(entry.at_fraction)} at {percent(entry.fraction)}"
    return el("div", el("div", f"> {seconds(entry.not_below)}{bound}"), el("div", share))
