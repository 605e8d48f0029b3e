"""Sections on what answers cost: the amortised comparison, the roofline, and the baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element

from samclip.benchmarks.accuracy.named_masks import comparison_tables
from samclip.benchmarks.amortised.comparison import SECONDS, amortised_table, ratios_to_first
from samclip.benchmarks.formats import as_fast
from samclip.benchmarks.html.elements import PERCENT, bullets, el, folded, show_table
from samclip.benchmarks.html.elements import SECONDS as IN_SECONDS
from samclip.benchmarks.html.named_reports import NamedReports
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.measurements import Roofline
from samclip.benchmarks.records import Row
from samclip.benchmarks.roofline.efficiency import estimates_table, graphs_table, rates_table

AMORTISED, BASELINES = "amortised", "accuracy baselines"


def amortised_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where no way was timed."""
    for named in reports.all:
        laid_out = amortised_table(named.report.rows)
        if named.report.benchmark != AMORTISED or laid_out is None:
            continue
        timed = [r for r in named.report.rows if r.measure == SECONDS and r.unit == "seconds"]
        subsets = dict.fromkeys(row.subset for row in timed)
        ratios = ratios_to_first(named.report.rows)
        plots = [_ways_plot([r for r in timed if r.subset == name], ratios) for name in subsets]
        yield el("h2", "One pass against two models apart", id="amortised")
        yield el("div", *plots, class_="plots")
        yield show_table(laid_out)
        yield bullets(named.report.protocol[:4])


def _ways_plot(rows: list[Row], ratios: Mapping[tuple[str, str], float]) -> Element:
    subset = rows[0].subset
    series = []
    for place, row in enumerate(rows):
        ratio = ratios.get((row.model, subset))
        note = f", {as_fast(ratio)}" if place and ratio is not None else ""
        series.append(Series(row.model, [row.value or 0.0], place, note))
    return el("figure", el("h3", subset), bars(series, IN_SECONDS, f"Seconds of {subset}, by way"))


def roofline_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where there is no roofline."""
    for named in reports.all:
        found = named.report.roofline
        if found is not None:
            yield el("h2", "How near to the machine's limit", id="roofline")
            yield from _reached_plot(found)
            yield show_table(rates_table(found.rates))
            yield show_table(graphs_table(found))
            yield from _estimates(found)


def _reached_plot(found: Roofline) -> Iterator[Element]:
    several = len({graph.model for graph in found.graphs}) > 1
    series = [
        Series(f"{graph.graph}, {graph.model if several else graph.precision}", [reached * 100])
        for graph in found.graphs
        if (reached := graph.reached) is not None
    ]
    if series:
        label = "Share of the machine's rate of products that each graph reaches, in percent"
        title = el("h3", "Share of the rate of products reached")
        yield el("div", el("figure", title, bars(series, PERCENT, label)), class_="plots")


def _estimates(found: Roofline) -> Iterator[Element]:
    if found.estimates:
        yield el("h3", "ESTIMATE for devices that were not measured")
        yield el("p", found.estimate_note, class_="note")
        yield show_table(estimates_table(found.estimates))
        published = sorted({f"{entry.device}: {entry.source}." for entry in found.estimates})
        yield folded("Where the rates are published", bullets(published))


def baselines_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where no report is of that benchmark."""
    for named in reports.all:
        if named.report.benchmark == BASELINES and named.report.rows:
            subjects = named.report.subjects
            untrained = {each.name for each in subjects if each.trained_head is False}
            yield el("h2", "Masks with names: one pass, and two models in a row", id="baselines")
            yield from map(show_table, comparison_tables(named.report.rows, untrained))
