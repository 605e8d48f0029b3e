"""The HTML page: a headline, caveats, and the sections of all reports."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.formats import format_value, mebibytes, percent, seconds
from samclip.benchmarks.html.cost_sections import (
    amortised_section,
    baselines_section,
    roofline_section,
)
from samclip.benchmarks.html.elements import STYLE, el, to_html
from samclip.benchmarks.html.named_reports import NamedReports
from samclip.benchmarks.html.provenance_section import participants_section, provenance_section
from samclip.benchmarks.html.speed_sections import (
    energy_section,
    latency_section,
    memory_section,
    stage_section,
)
from samclip.benchmarks.html.tradeoff_section import rows_section, tradeoff_section
from samclip.benchmarks.latency.results import warn_of_noise
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Report
from samclip.version import __version__

TILES = 6
Tile = tuple[str, str, str]  # a figure, what it is, of whom
# Nothing is loaded and nothing runs, whatever a report's names hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def headline(reports: NamedReports) -> Iterator[Element]:
    """Return a sentence that sums up the run, and tiles with the figures that matter most."""
    yield el("p", " ".join(_sentences(reports)), class_="lead")
    tiles = [
        el("div", el("b", value), el("span", what), el("span", who), class_="tile")
        for value, what, who in _tiles(reports)
    ]
    if tiles:
        yield el("div", *tiles[:TILES], class_="tiles")


def _sentences(reports: NamedReports) -> Iterator[str]:
    """Return sentences on what the first report's first model does, and where."""
    first = reports.all[0].report
    where = f"on {first.machine.jetson or first.machine.cpu}, {first.machine.usable_cores} cores"
    pipelines = _pipelines(reports)
    if not pipelines:
        names = [subject.name for subject in first.subjects]
        yield f"{first.benchmark} of {', '.join(names) or 'nothing named'}, {where}."
        return
    timing = pipelines[0]
    time = median(timing.samples)
    way = timing.name if " to " in timing.name else f"start to end of '{timing.name}'"
    yield (
        f"{timing.model} goes from {way} in {seconds(time)}, the median of "
        f"{len(timing.samples)}, {where}."
    )
    others = [p for p in pipelines if p.name == timing.name and p.model != timing.model]
    for other in others[:3]:
        yield f"{other.model} takes {median(other.samples) / time:.2f} times as long."


def _pipelines(reports: NamedReports) -> list[Timing]:
    return [timing for timing in reports.timings("warm") if timing.kind == "pipeline"]


def _tiles(reports: NamedReports) -> Iterator[Tile]:
    yield from _speed(reports)
    uses = list(reports.memory())
    if uses:
        model = uses[0].model
        peak = max(use.peak_rss for use in uses if use.model == model)
        yield mebibytes(peak), "highest memory", model
    for named in reports.all:
        if named.report.roofline is not None:
            graph = named.report.roofline.graphs[0]
            if graph.reached is not None:
                what = f"of the machine's best rate: {graph.graph}"
                yield percent(graph.reached), what, graph.model
        rows = [row for row in named.report.rows if row.unit == "share" and not row.detail]
        for row in rows[:2]:
            yield format_value(row.value, row.unit), f"{row.measure}, {row.subset}", row.model


def _speed(reports: NamedReports) -> Iterator[Tile]:
    pipelines = _pipelines(reports)
    if not pipelines:
        return
    model = pipelines[0].model
    for timing in pipelines:
        if timing.model == model:
            yield seconds(median(timing.samples)), timing.name, model
    stages = [t for t in reports.timings("warm") if t.model == model and t.name == "encoder"]
    if stages:
        yield seconds(median(stages[0].samples)), "of that the encoder", model


def caveats(reports: NamedReports) -> Iterator[str]:
    """Return doubts about the figures: noise, a busy machine, moving clocks, other machines."""
    for named in reports.all:
        for line in warn_of_noise(named.report.timings):
            yield f"{named.name}: {line}"
        conditions = named.report.conditions
        if conditions is not None and conditions.clocks_pinned is False:
            yield f"{named.name}: clocks could move while it was measured."
        for subject in named.report.subjects:
            if subject.trained_head is False:
                yield f"{subject.name}: the head was never trained, so its names mean nothing."
    yield from _busy(reports)
    yield from _differences([named.report for named in reports.all])


def _busy(reports: NamedReports) -> Iterator[str]:
    """Name the reports at whose end more processes wanted a core than there are."""
    found = {
        named.name: named.report.threads.load[0]
        for named in reports.all
        if named.report.threads.load is not None
        and named.report.threads.load[0] > named.report.machine.usable_cores + 0.5
    }
    if found:
        loads = ", ".join(f"{load:.1f} at the end of {name}" for name, load in found.items())
        cores = reports.all[0].report.machine.usable_cores
        yield (
            f"More processes wanted a core than there were cores ({cores}): {loads}. Other work "
            "was going on: ratios within one report hold better than seconds."
        )


def _differences(reports: list[Report]) -> Iterator[str]:
    machines = {(report.machine.cpu, report.machine.gpus) for report in reports}
    if len(machines) > 1:
        yield "The reports are of different machines: do not compare their seconds."
    versions = sorted({report.samclip for report in reports})
    if len(versions) > 1:
        yield f"The reports are of different versions of samclip: {', '.join(versions)}."


SECTIONS = (
    latency_section,
    stage_section,
    tradeoff_section,
    baselines_section,
    amortised_section,
    memory_section,
    energy_section,
    roofline_section,
    participants_section,
    rows_section,
    provenance_section,
)


def render(reports: NamedReports) -> str:
    """Write the page of one report or several; nothing in it is loaded from elsewhere."""
    title = _title(reports)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", STYLE),
    )
    body = el("body", el("h1", title), el("p", _byline(reports), class_="soft"))
    body.extend(headline(reports))
    body.extend(el("p", line, class_="note") for line in caveats(reports))
    for section in SECTIONS:
        body.extend(section(reports))
    body.append(el("p", f"Made by samclip {__version__}, samclip-bench report.", class_="soft"))
    return to_html(el("html", head, body, lang="en"))


def _title(reports: NamedReports) -> str:
    """Name what was measured and how: "samclip-tiny: latency and memory"."""
    models = list(dict.fromkeys(s.name for named in reports.all for s in named.report.subjects))
    kinds = list(dict.fromkeys(named.report.benchmark for named in reports.all))
    shown = ", ".join(models[:3]) + (" and others" if len(models) > 3 else "")
    return f"{shown}: {_listed(kinds)}" if models else _listed(kinds)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _byline(reports: NamedReports) -> str:
    days = sorted({_day(named.report.date) for named in reports.all})
    versions = sorted({named.report.samclip for named in reports.all})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    count = "1 report" if len(reports.all) == 1 else f"{len(reports.all)} reports"
    return f"{span}, {count}, samclip {', '.join(versions)}"


def _day(date: str) -> str:
    """Return the day of a report's date, or the text itself where it is not a date."""
    try:
        return datetime.datetime.fromisoformat(date).strftime("%Y-%m-%d")
    except ValueError:
        return date
