"""Sections on speed against accuracy, where reports hold both, and on every row of every report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import SECONDS, el, folded, show_table
from samclip.benchmarks.html.named_reports import NamedReport, NamedReports
from samclip.benchmarks.html.plots import Point, scatter
from samclip.benchmarks.records import Subject
from samclip.benchmarks.rows import rows_table

MOST = 6  # plots
Key = tuple[str, str, str]  # measure, subset, and what was timed
Groups = dict[Key, list[Point]]
Times = Mapping[str, Sequence[tuple[float, str]]]  # seconds by model, and of what


def tradeoff_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where no model has both a time and an accuracy."""
    groups = _groups(reports)
    if not groups:
        return
    yield el("h2", "Speed against accuracy", id="tradeoff")
    yield el(
        "p",
        "Up and to the left is better. Whiskers are 95 % intervals; the height does not begin at "
        "zero.",
        class_="soft",
    )
    firsts: dict[str, Key] = {}  # by measure: the subset that its report lists first
    for key in groups:
        firsts.setdefault(key[0], key)
    shown = [(key, groups[key]) for key in groups if key in firsts.values()][:MOST]
    yield el("div", *(_figure(key, points) for key, points in shown), class_="plots")
    if len(groups) > len(shown):
        yield el("p", f"{len(groups) - len(shown)} more are in the tables.", class_="soft")


def _groups(reports: NamedReports) -> Groups:
    """Gather points by measure, subset and what was timed, over all reports."""
    groups: Groups = {}
    for named in reports.all:
        times = _own_times(named) or _times_elsewhere(named, reports)
        for row in named.report.rows:
            if row.unit != "share" or row.detail or row.value is None or row.model not in times:
                continue
            kind, found = row.measure.partition(" ")[0], times[row.model]
            fitting = (time for time in found if time[1].partition(" ")[0] == kind)
            time, across = next(fitting, found[0])  # of the same kind of prompt, or else the first
            point = Point(row.model, time, row.value, row.low, row.high)
            groups.setdefault((row.measure, row.subset, across), []).append(point)
    return groups


def _figure(key: Key, points: list[Point]) -> Element:
    measure, subset, across = key
    label = f"{measure} ({subset}) against {across}"
    title = el("h3", f"{measure}, {subset}")
    return el("figure", title, scatter(points, SECONDS, label), el("figcaption", label))


def _own_times(named: NamedReport) -> Times:
    """Take the seconds that the report of accuracy itself has, as `accuracy baselines` does."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in named.report.rows:
        if row.unit == "seconds" and row.value and not row.detail:
            found.setdefault(row.model, []).append((row.value, row.measure))
    return found


def _times_elsewhere(named: NamedReport, reports: NamedReports) -> Times:
    """Take the median of the first pipeline of the same bundle in a report of latency."""
    found: dict[str, list[tuple[float, str]]] = {}
    for subject in named.report.subjects:
        for other in reports.all:
            for twin in other.report.subjects:
                if other is not named and _same(subject, twin):
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


def _first_pipeline(
    named: NamedReport, model: str, name: str
) -> dict[str, list[tuple[float, str]]]:
    for timing in named.report.timings:
        if timing.model == model and timing.kind == "pipeline" and timing.state == "warm":
            return {name: [(median(timing.samples), timing.name)]}
    return {}


def rows_section(reports: NamedReports) -> Iterator[Element]:
    """Return a table of each report's rows; what is plotted, and detail, is folded away."""
    for place, named in enumerate(reports.all):
        report = named.report
        plotted = bool(report.timings or report.memory or report.roofline)
        hidden = [r for r in report.rows if r.detail or (plotted and r.unit != "ratio")]
        shown = [row for row in report.rows if row not in hidden]
        if report.rows:
            title = f"All rows: {report.benchmark} ({named.name})"
            yield el("h2", title, id=f"rows-{place}")
        if shown:
            yield show_table(rows_table(shown))
        if hidden:
            yield folded(f"{len(hidden)} more rows", show_table(rows_table(hidden)))
