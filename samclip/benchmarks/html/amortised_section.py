"""One pass for three tasks against two models apart: the amortised table, and the bars of it."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, large, of_row
from samclip.benchmarks.html.numbers import SECONDS as IN_SECONDS
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.html.sources import Source, Sources
from samclip.benchmarks.rows import Row

AMORTISED = "amortised"
SECONDS, MACS, PARAMETERS = "seconds", "multiply-accumulates", "vision parameters"
Cells = dict[tuple[str, str, str], Row]  # by measure, way and subset


def amortised_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where no report is of that benchmark."""
    for source in sources.all:
        if source.report.benchmark == AMORTISED and source.report.rows:
            yield from _amortised_part(source)


def _amortised_part(source: Source) -> Iterator[Element]:
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
