"""Every row of every report, as tables: a table for each measure, models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, interval, of_row
from samclip.benchmarks.html.sources import Source, Sources
from samclip.benchmarks.rows import Row

HEAD = ["what", "model", "value", "95 % interval", "n", "photos"]


def rows_section(sources: Sources) -> Iterator[Element]:
    """Give a table of each report's rows; rows of detail are folded away."""
    for source in sources.all:
        shown = [row for row in source.report.rows if not row.detail]
        if shown:
            title = f"All rows: {source.report.benchmark} ({source.name})"
            yield el("h2", title, id=f"rows-{sources.all.index(source)}")
            yield _table(source, shown)
        detail = [row for row in source.report.rows if row.detail]
        if detail:
            title = f"{len(detail)} rows of detail: {source.report.benchmark} ({source.name})"
            yield el("details", el("summary", title), _table(source, detail))


def _table(source: Source, rows: list[Row]) -> Element:
    del source
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
