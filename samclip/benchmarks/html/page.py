"""The HTML page: a headline, caveats, and the sections of all reports."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.formats import (
    as_fast,
    format_value,
    mebibytes,
    percent,
    seconds,
    speed_interval,
)
from samclip.benchmarks.html.cost_sections import (
    amortised_section,
    baselines_section,
    roofline_section,
)
from samclip.benchmarks.html.elements import STYLE, bullets, el, to_html
from samclip.benchmarks.html.named_reports import NamedReports, TimedRun
from samclip.benchmarks.html.profile_section import profile_section
from samclip.benchmarks.html.provenance_section import participants_section, provenance_section
from samclip.benchmarks.html.speed_sections import (
    energy_section,
    latency_section,
    memory_section,
    stage_section,
)
from samclip.benchmarks.html.tradeoff_section import rows_section, tradeoff_section
from samclip.benchmarks.latency.results import paired_ratio, warn_of_noise
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Report
from samclip.version import __version__

TILES = 6
BUSY = 0.5  # processes above the number of cores: other work was going on
Tile = tuple[str, str, str]  # a figure, what it is, of whom
Caveat = tuple[str, str]  # its kind, and the whole line
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
    """Return sentences on what the first model that was timed does, and where.

    Others are compared with it only where they took turns with it.
    """
    timed = _timed_first(reports)
    if timed is None:
        first = reports.all[0].report
        names = [subject.name for subject in first.subjects]
        yield f"{first.benchmark} of {', '.join(names) or 'nothing named'}, {_where(first)}."
        return
    run, timing = timed
    way = timing.name if " to " in timing.name else f"start to end of '{timing.name}'"
    yield (
        f"{timing.model} goes from {way} in {seconds(median(timing.samples))}, the median of "
        f"{len(timing.samples)}, {_where(run.report)}."
    )
    same = [t for t in run.of(timing.state) if (t.kind, t.name) == (timing.kind, timing.name)]
    others = [t for t in same if t is not timing and len(t.samples) == len(timing.samples)]
    for other in others[:3]:
        ratio = paired_ratio(other.samples, timing.samples, timing.photos)
        interval = speed_interval(ratio.low, ratio.high)
        yield f"{other.model} is {as_fast(ratio.value)} ({interval}, measured in turns)."


def _where(report: Report) -> str:
    machine = report.machine
    return f"on {machine.jetson or machine.cpu}, {machine.usable_cores} cores"


def _timed_first(reports: NamedReports) -> tuple[TimedRun, Timing] | None:
    """Return the first pipeline that was timed, with its run."""
    for run in reports.timed():
        for timing in run.of("warm"):
            if timing.kind == "pipeline":
                return run, timing
    return None


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
    timed = _timed_first(reports)
    if timed is None:
        return
    run, first = timed
    own = [timing for timing in run.of("warm") if timing.model == first.model]
    for timing in own:
        if timing.kind == "pipeline":
            yield seconds(median(timing.samples)), timing.name, first.model
    stages = [timing for timing in own if timing.name == "encoder"]
    if stages:
        yield seconds(median(stages[0].samples)), "of that the encoder", first.model


def warnings_block(reports: NamedReports) -> Iterator[Element]:
    """Return all doubts about the figures folded into one block, counted by kind."""
    found = list(dict.fromkeys(caveats(reports)))
    if not found:
        return
    counts = Counter(kind for kind, _ in found)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
    total = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    listed = bullets(line for _, line in found)
    yield el("details", el("summary", f"{total}: {kinds}"), listed, class_="note", id="warnings")


def caveats(reports: NamedReports) -> Iterator[Caveat]:
    """Return doubts about the figures: noise, a busy machine, moving clocks, several runs."""
    yield from _busy(reports)
    yield from _differences(reports)
    for named in reports.all:
        for subject in named.report.subjects:
            if subject.trained_head is False:
                line = f"{subject.name}: the head was never trained, so its names mean nothing."
                yield "untrained head", line
        for line in warn_of_noise(named.report.timings):
            yield "noise", f"{named.name}: {line}"
        conditions = named.report.conditions
        if conditions is not None and conditions.clocks_pinned is False:
            yield "moving clocks", f"{named.name}: clocks could move while it was measured."


def _busy(reports: NamedReports) -> Iterator[Caveat]:
    """Name the reports at whose end more processes wanted a core than there are."""
    for named in reports.all:
        load, cores = named.report.threads.load, named.report.machine.usable_cores
        if load is not None and load[0] > cores + BUSY:
            yield (
                "busy machine",
                f"{named.name}: {load[0]:.1f} processes wanted one of {cores} cores at its end. "
                "Other work was going on: ratios within one report hold better than seconds.",
            )


def _differences(reports: NamedReports) -> Iterator[Caveat]:
    found = [named.report for named in reports.all]
    if len(list(reports.timed())) > 1:
        yield (
            "several runs",
            "Times of different runs did not take turns: each plot shows one run. To compare "
            "models, measure them in one.",
        )
    if len({(report.machine.cpu, report.machine.gpus) for report in found}) > 1:
        line = "The reports are of different machines: do not compare their seconds."
        yield "different machines", line
    versions = sorted({report.samclip for report in found})
    if len(versions) > 1:
        line = f"The reports are of different versions of samclip: {', '.join(versions)}."
        yield "different versions", line


SECTIONS = (
    latency_section,
    stage_section,
    tradeoff_section,
    baselines_section,
    amortised_section,
    memory_section,
    energy_section,
    roofline_section,
    profile_section,
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
    body.extend(warnings_block(reports))
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
