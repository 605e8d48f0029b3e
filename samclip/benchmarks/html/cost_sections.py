"""One pass for three tasks against two models apart: the amortised table, and the bars of it.

How near graphs come to what the machine can do, and estimates for devices nobody measured.

One pass against SAM and a second model: the table of `accuracy baselines`.

Who ran beside whom: versions of each peer's environment, and why some did not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.accuracy.baselines import comparisons
from samclip.benchmarks.html.elements import (
    NONE,
    PERCENT,
    Child,
    digits,
    el,
    large,
    mebibytes,
    of_row,
    percent,
    seconds,
    table,
)
from samclip.benchmarks.html.elements import SECONDS as IN_SECONDS
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.html.reports import NamedReport, NamedReports
from samclip.benchmarks.records import DeviceEstimate, GraphRoofline, Rate, Report, Roofline, Row
from samclip.benchmarks.roofline.efficiency import KINDS, traffic_seconds

AMORTISED = "amortised"
SECONDS, MACS, PARAMETERS = "seconds", "multiply-accumulates", "vision parameters"
Cells = dict[tuple[str, str, str], Row]  # by measure, way and subset


def amortised_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where no report is of that benchmark."""
    for source in sources.all:
        if source.report.benchmark == AMORTISED and source.report.rows:
            yield from _amortised_part(source)


def _amortised_part(source: NamedReport) -> Iterator[Element]:
    rows = [row for row in source.report.rows if row.unit in {"seconds", "count"}]
    cells = {(row.measure, row.model, row.subset): row for row in rows}
    ways = list(dict.fromkeys(row.model for row in rows if row.measure == SECONDS))
    subsets = list(dict.fromkeys(row.subset for row in rows if row.measure == SECONDS))
    if not ways:
        return
    yield el("h2", "One pass against two models apart", id="amortised")
    yield el("div", *(_figure(subset, ways, cells) for subset in subsets), class_="plots")
    yield _table(ways, subsets, cells)
    yield el("ul", *(el("li", line) for line in source.report.protocol[:4]))


def _figure(subset: str, ways: list[str], cells: Cells) -> Element:
    series = [
        Series(way, [row.value or 0.0], place, _times(way, ways, cells, subset))
        for place, way in enumerate(ways)
        if (row := cells.get((SECONDS, way, subset))) is not None
    ]
    return el("figure", el("h3", subset), bars(series, IN_SECONDS, f"Seconds of {subset}, by way"))


def _times(way: str, ways: list[str], cells: Cells, subset: str) -> str:
    """Say how many times as long as the first way this one takes."""
    first, own = (cells.get((SECONDS, name, subset)) for name in (ways[0], way))
    if way == ways[0] or first is None or own is None or not first.value or own.value is None:
        return ""
    return f", {own.value / first.value:.2f} \N{MULTIPLICATION SIGN}"


def _table(ways: list[str], subsets: list[str], cells: Cells) -> Element:
    head = ["way", PARAMETERS]
    for subset in subsets:
        head += [subset, "MACs"]
    rows: list[list[Child]] = []
    for way in ways:
        row: list[Child] = [way, _cell(cells, PARAMETERS, way, "all")]
        for subset in subsets:
            time = _cell(cells, SECONDS, way, subset)
            row += [time + _times(way, ways, cells, subset), _cell(cells, MACS, way, subset)]
        rows.append(row)
    return table(head, rows)


def _cell(cells: Cells, measure: str, way: str, subset: str) -> str:
    row = cells.get((measure, way, subset))
    if row is None or row.value is None:
        return NONE
    return large(row.value) if row.unit == "count" else of_row(row)


WORK = ["graph", "model", "GMAC", "in INT8", "parameters", "weights", "moved", "median"]
REACH = ["GFLOP/s", "reached", "best run", "if memory alone"]


def roofline_section(sources: NamedReports) -> Iterator[Element]:
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


BASELINES = "accuracy baselines"


def baselines_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where no report is of that benchmark."""
    for source in sources.all:
        if source.report.benchmark == BASELINES:
            yield from _baselines_part(source.report)


def _baselines_part(report: Report) -> Iterator[Element]:
    untrained = {each.name for each in report.subjects if each.trained_head is False}
    found = list(comparisons(report.rows, untrained))
    if not found:
        return
    yield el("h2", "Masks with names: one pass, and two models in a row", id="baselines")
    for comparison in found:
        lines: list[list[Child]] = [list(line) for line in comparison.lines]
        yield el("h3", f"Prompt: {comparison.prompt}")
        yield table(list(comparison.head), lines)


def peers_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where there were no peers."""
    peers = [peer for source in sources.all for peer in source.report.peers]
    if not peers:
        return
    yield el("h2", "Who ran", id="peers")
    rows: list[list[Child]] = [
        [
            peer.name,
            peer.what,
            peer.reason or "ran",
            f"{peer.image_size} px",
            NONE if peer.load_seconds is None else seconds(peer.load_seconds),
        ]
        for peer in peers
    ]
    yield table(["contender", "what it is", "", "input", "to load"], rows, left=3)
    versions = [
        el("li", f"{peer.name}: Python {peer.python}, {_packages(peer.packages)}")
        for peer in peers
        if peer.python
    ]
    yield el("details", el("summary", "Versions of each environment"), el("ul", *versions))


def _packages(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
