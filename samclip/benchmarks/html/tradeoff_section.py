"""Sections on speed against accuracy, where reports hold both, and on every row of every report.

Accuracy does not depend on the moment, so several reports of one data set may share a plot; the
times of a plot are always of one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import SECONDS, el, folded, show_table
from samclip.benchmarks.html.named_reports import NamedReport, NamedReports
from samclip.benchmarks.html.plots import Point, scatter
from samclip.benchmarks.records import Subject
from samclip.benchmarks.rows import rows_table

MOST = 6  # plots
Groups = dict["Axes", list[Point]]
Times = Mapping[str, Sequence[tuple[float, str]]]  # seconds by model, and of what


@dataclass(frozen=True)
class Axes:
    """What the points of a plot have in common.

    `measure`, `subset`: of accuracy; `data`: the photos that it was measured on; `across`: what was
    timed, in the run `run`.
    """

    measure: str
    subset: str
    data: str
    across: str
    run: str


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
    firsts: dict[tuple[object, ...], Axes] = {}  # by measure: the subset that comes first
    for axes in groups:
        firsts.setdefault((axes.measure, axes.data, axes.run), axes)
    shown = [(axes, groups[axes]) for axes in firsts.values()][:MOST]
    yield el("div", *(_figure(key, points) for key, points in shown), class_="plots")
    if len(groups) > len(shown):
        yield el("p", f"{len(groups) - len(shown)} more are in the tables.", class_="soft")


def _groups(reports: NamedReports) -> Groups:
    """Gather points by axes, over all reports."""
    groups: Groups = {}
    for named in reports.all:
        own, found_data = _own_times(named), named.report.data
        data = f"{found_data.photos} photos of {found_data.path}"
        runs = [(named.name, own)] if own else list(_times_elsewhere(named, reports))
        for run, times in runs:
            for row in named.report.rows:
                is_share = row.unit == "share" and not row.detail
                if not is_share or row.value is None or row.model not in times:
                    continue
                kind, found = row.measure.partition(" ")[0], times[row.model]
                fitting = (time for time in found if time[1].partition(" ")[0] == kind)
                time, across = next(fitting, found[0])  # of the same kind of prompt, or the first
                axes = Axes(row.measure, row.subset, data, across, run)
                point = Point(row.model, time, row.value, row.low, row.high)
                groups.setdefault(axes, []).append(point)
    return groups


def _figure(axes: Axes, points: list[Point]) -> Element:
    label = f"{axes.measure} ({axes.subset}) of {axes.data}, against {axes.across} of {axes.run}"
    title = el("h3", f"{axes.measure}, {axes.subset}")
    return el("figure", title, scatter(points, SECONDS, label), el("figcaption", label))


def _own_times(named: NamedReport) -> Times:
    """Take the seconds that the report of accuracy itself has, as `accuracy baselines` does."""
    found: dict[str, list[tuple[float, str]]] = {}
    for row in named.report.rows:
        if row.unit == "seconds" and row.value and not row.detail:
            found.setdefault(row.model, []).append((row.value, row.measure))
    return found


def _times_elsewhere(named: NamedReport, reports: NamedReports) -> Iterator[tuple[str, Times]]:
    """Take the median of the first pipeline of the same bundles in each report of latency."""
    for other in reports.all:
        found: dict[str, list[tuple[float, str]]] = {}
        for subject in named.report.subjects:
            for twin in other.report.subjects:
                if other is not named and _same(subject, twin):
                    found.update(_first_pipeline(other, twin.name, subject.name))
        if found:
            yield other.name, found


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
            yield show_table(rows_table(shown, report.rows))
        if hidden:
            yield folded(f"{len(hidden)} more rows", show_table(rows_table(hidden, report.rows)))
