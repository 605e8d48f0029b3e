"""Sections on time, energy and memory: plots of every sample, then the tables."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from xml.etree.ElementTree import Element

from samclip.benchmarks.formats import MIB, percent, seconds
from samclip.benchmarks.html.elements import (
    MEBIBYTES,
    REST,
    SECONDS,
    Child,
    colour,
    el,
    folded,
    show_table,
    table,
)
from samclip.benchmarks.html.named_reports import NamedReports, TimedRun
from samclip.benchmarks.html.plots import Series, bars, dots
from samclip.benchmarks.latency.energy import energy_table
from samclip.benchmarks.latency.results import timing_tables
from samclip.benchmarks.measurements import State, Timing
from samclip.benchmarks.memory.usage import memory_tables

STATES: tuple[State, ...] = ("warm", "cold")
ORDER = ("pipeline", "process", "task", "stage")
OTHER, UNEXPLAINED = "other", "not in any stage"
WIDE = 3  # models
LEAST = 1e-3  # of the whole: a gap below it is rounding
Groups = dict[tuple[str, str], list[Timing]]  # by kind and name
Stages = dict[str, float]  # mean seconds


def latency_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, a part for each run; nothing where nothing was timed."""
    runs = list(reports.timed())
    if not runs:
        return
    yield el("h2", "How long it takes", id="latency")
    yield el(
        "p",
        "Every dot is one measurement; the line is the median, the dashed tick p95. Axes begin at "
        "zero.",
        class_="soft",
    )
    for run in runs:
        if len(runs) > 1:
            yield el("h3", f"Run {run.name}", class_="run")
        yield from _latency_of(run)


def _latency_of(run: TimedRun) -> Iterator[Element]:
    warm, cold = (_by_name(run.of(state)) for state in STATES)
    yield el("div", *(_figure(name, found) for (_, name), found in warm.items()), class_="plots")
    if cold:
        yield el("h3", "Cold: the first time in a new model or process")
        plots = [_figure(name, found) for (kind, name), found in cold.items() if kind != "task"]
        yield el("div", *plots, class_="plots")
    for state in STATES:
        timings = run.of(state)
        if timings:
            yield folded(f"All figures, {state}", *map(show_table, timing_tables(timings, state)))


def _by_name(timings: list[Timing]) -> Groups:
    """Group timings that are not part of others by kind and name, pipelines first."""
    found: Groups = {}
    wholes = [timing for timing in timings if timing.part_of is None]
    for timing in sorted(wholes, key=lambda timing: ORDER.index(timing.kind)):
        found.setdefault((timing.kind, timing.name), []).append(timing)
    return found


def _figure(name: str, found: list[Timing]) -> Element:
    series = [Series(t.model, t.samples, place) for place, t in enumerate(found)]
    counts = sorted({len(timing.samples) for timing in found})
    many = " and ".join(map(str, counts))
    text = f"{name}, {many} samples each" if len(found) > 1 else f"{name}, {many} samples"
    return el("figure", el("h3", name), dots(series, SECONDS, text))


def stage_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, a part for each run; nothing where nothing was timed in stages."""
    staged = [
        (run, found)
        for run in reports.timed()
        if (found := [(t, parts) for t in run.timings if (parts := _stages(run, t))])
    ]
    if not staged:
        return
    yield el("h2", "Where the time goes", id="stages")
    yield el(
        "p",
        "Means, because means of stages add up to the mean of the whole. What no stage accounts "
        "for is shown as a separate part.",
        class_="soft",
    )
    for run, found in staged:
        if len(staged) > 1:
            yield el("h3", f"Run {run.name}", class_="run")
        for state, name in dict.fromkeys((t.state, t.name) for t, _ in _warm_first(found)):
            title = name if state == "warm" else f"{name}, cold"
            of_name = [entry for entry in found if (entry[0].state, entry[0].name) == (state, name)]
            yield _stage_figure(title, of_name)


def _warm_first(found: list[tuple[Timing, Stages]]) -> list[tuple[Timing, Stages]]:
    return sorted(found, key=lambda entry: STATES.index(entry[0].state))


def _stages(run: TimedRun, whole: Timing) -> Stages:
    """Return the mean of each stage, the largest first, and of what is left of the whole.

    Nothing for what is a part itself.
    """
    parts = {
        timing.name: fmean(timing.samples)
        for timing in run.of(whole.state)
        if whole.part_of is None and timing.model == whole.model and timing.part_of == whole.name
    }
    if not parts:
        return {}
    rest = fmean(whole.samples) - sum(parts.values())
    ordered = dict(sorted(parts.items(), key=lambda part: (part[0] == OTHER, -part[1])))
    if abs(rest) > LEAST * fmean(whole.samples):
        ordered[UNEXPLAINED] = rest
    return ordered


def _stage_figure(name: str, found: list[tuple[Timing, Stages]]) -> Element:
    order = list(dict.fromkeys(stage for _, stages in found for stage in stages))
    fills = [_colour(stage, place) for place, stage in enumerate(order)]
    series = [
        Series(whole.model, [max(0.0, stages.get(stage, 0.0)) for stage in order], fills=fills)
        for whole, stages in found
    ]
    label = f"Stages of {name}: {', '.join(order)}"
    drawing = el("figure", bars(series, SECONDS, label))
    layout = "side" if len(found) < WIDE else None  # wider tables go below the drawing
    return el("div", el("h3", name), el("div", drawing, _legend(order, found), class_=layout))


def _legend(order: list[str], found: list[tuple[Timing, Stages]]) -> Element:
    """Make the table that names the colours, with the mean and the share of each stage."""
    heads = ["stage"]
    for whole, _ in found:
        heads += [whole.model, "share"] if len(found) > 1 else ["mean", "share"]
    means = [fmean(whole.samples) for whole, _ in found]
    rows: list[list[Child]] = []
    for place, stage in enumerate(order):
        key = el("span", class_="key", style=f"background: {_colour(stage, place)}")
        row: list[Child] = [el("span", key, stage)]
        for (_, stages), mean in zip(found, means, strict=True):
            value = stages.get(stage, 0.0)
            row += [seconds(value), percent(value / mean)]
        rows.append(row)
    total: list[Child] = ["whole"]
    for (_, stages), mean in zip(found, means, strict=True):
        total += [seconds(mean), percent(sum(stages.values()) / mean)]
    text = [True, *[False] * (len(heads) - 1)]
    made = table(heads, [*rows, total], text)
    list(made.iter("tr"))[-1].set("class", "sum")
    return made


def _colour(stage: str, place: int) -> str:
    return REST if stage in {OTHER, UNEXPLAINED} else colour(place)


def energy_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where energy was not asked for."""
    found = [entry for named in reports.all for entry in named.report.energy]
    if found:
        yield el("h2", "What energy it takes", id="energy")
        yield show_table(energy_table(found))


def memory_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where no memory was measured."""
    uses = list(reports.memory())
    if not uses:
        return
    yield el("h2", "How much memory it takes", id="memory")
    yield el(
        "p",
        "Highest resident set of a fresh process for each stage, those before it included; the "
        "highest of several processes.",
        class_="soft",
    )
    plots = []
    for place, model in enumerate(dict.fromkeys(use.model for use in uses)):
        own = [use for use in uses if use.model == model]
        series = [Series(use.stage, [use.peak_rss / MIB], place) for use in own]
        drawing = bars(series, MEBIBYTES, f"Peak memory of {model} in MiB, by stage")
        plots.append(el("figure", el("h3", model), drawing))
    yield el("div", *plots, class_="plots")
    yield folded("All figures of memory", *map(show_table, memory_tables(uses)))
