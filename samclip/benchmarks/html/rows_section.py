"""Every row of every report, as tables: a table for each measure, models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, interval, of_row
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.report import Report
from samclip.benchmarks.rows import Row

HEAD = ["what", "model", "value", "95 % interval", "n", "photos"]


def rows_section(sources: Sources) -> Iterator[Element]:
    """Give a table of each report's rows; what is plotted, and detail, is folded away."""
    for place, source in enumerate(sources.all):
        shown, folded = _parted(source.report)
        if shown or folded:
            title = f"All rows: {source.report.benchmark} ({source.name})"
            yield el("h2", title, id=f"rows-{place}")
        if shown:
            yield _table(shown)
        if folded:
            yield el("details", el("summary", f"{len(folded)} more rows"), _table(folded))


def _parted(report: Report) -> tuple[list[Row], list[Row]]:
    """Part the rows to show from those to fold away: detail, and what is plotted above."""
    plotted = bool(report.timings or report.memory or report.roofline)
    folded = [row for row in report.rows if row.detail or (plotted and row.unit != "ratio")]
    return [row for row in report.rows if row not in folded], folded


def _table(rows: list[Row]) -> Element:
    cells: list[list[Child]] = [
        [
            f"{row.measure}, {row.subset}",
            row.model,
            of_row(row),
            interval(row) or NONE,
            f"{row.n:,}",
            f"{row.photos:,}",
        ]
        for row in rows
    ]
    return table(HEAD, cells, left=2)
