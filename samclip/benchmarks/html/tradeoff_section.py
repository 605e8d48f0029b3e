"""Speed against accuracy, for models of which the reports hold both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import el
from samclip.benchmarks.html.numbers import SECONDS
from samclip.benchmarks.html.plots import Point, scatter
from samclip.benchmarks.html.sources import Source, Sources
from samclip.benchmarks.report import Subject
from samclip.benchmarks.rows import Row

MOST = 6  # plots
Times = Mapping[str, tuple[float, str]]  # seconds by model, and of what


def tradeoff_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where no model has both a time and an accuracy."""
    plots = [plot for source in sources.all for plot in _plots(source, sources)]
    if not plots:
        return
    yield el("h2", "Speed against accuracy", id="tradeoff")
    yield el(
        "p",
        "Up and to the left is better. Whiskers are 95 % intervals; the height does not begin at "
        "zero.",
        class_="soft",
    )
    yield el("div", *plots[:MOST], class_="plots")
    if len(plots) > MOST:
        yield el("p", f"{len(plots) - MOST} further measures are in the tables.", class_="soft")


def _plots(source: Source, sources: Sources) -> Iterator[Element]:
    """Draw each measure of one report of accuracy that two models, or one timed, have."""
    times = _own_times(source) or _times_elsewhere(source, sources)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in source.report.rows:
        shown = row.unit == "share" and not row.detail and row.value is not None
        if shown and row.model in times and not source.report.roofline:
            groups.setdefault((row.measure, row.subset), []).append(row)
    for (measure, subset), rows in groups.items():
        points = [_point(row, times) for row in rows]
        across = times[rows[0].model][1]
        title = f"{measure}, {subset}"
        drawing = scatter(points, SECONDS, f"{title} against {across}")
        caption = el("figcaption", f"{measure} ({subset}) against {across}")
        yield el("figure", el("h3", title), drawing, caption)


def _point(row: Row, times: Times) -> Point:
    return Point(row.model, times[row.model][0], row.value or 0.0, row.low, row.high)


def _own_times(source: Source) -> Times:
    """Take the seconds that the report of accuracy itself has, as `accuracy baselines` does."""
    return {
        row.model: (row.value, row.measure)
        for row in source.report.rows
        if row.unit == "seconds" and row.value and not row.detail
    }


def _times_elsewhere(source: Source, sources: Sources) -> Times:
    """Take the median of the first pipeline of the same bundle in a report of latency."""
    found: dict[str, tuple[float, str]] = {}
    for subject in source.report.subjects:
        for other in sources.all:
            for twin in other.report.subjects:
                if other is not source and _same(subject, twin):
                    found.update(_first_pipeline(other, twin.name, subject.name))
    return found


def _same(one: Subject, other: Subject) -> bool:
    """Whether two subjects are one bundle, run by one backend in one precision."""
    precisions = {one.precision, other.precision} - {None}
    return (
        one.manifest_sha256 is not None
        and one.manifest_sha256 == other.manifest_sha256
        and one.backend == other.backend
        and len(precisions) <= 1
    )


def _first_pipeline(source: Source, model: str, name: str) -> dict[str, tuple[float, str]]:
    for timing in source.report.timings:
        if timing.model == model and timing.kind == "pipeline" and timing.state == "warm":
            return {name: (median(timing.samples), timing.name)}
    return {}
