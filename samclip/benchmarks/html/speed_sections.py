"""How long things take: every sample drawn, and the usual figures.

Where the time goes: stages as parts of a bar that is as long as the whole.

What a task takes from the power supply, or why that is not known.

How much memory it takes: the peak of a fresh process that went so far and no further.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import (
    MEBIBYTES,
    MIB,
    NONE,
    REST,
    SECONDS,
    Child,
    colour,
    digits,
    el,
    mebibytes,
    percent,
    seconds,
    table,
)
from samclip.benchmarks.html.plots import Series, bars, dots
from samclip.benchmarks.html.reports import NamedReports
from samclip.benchmarks.latency.summary import summary_of
from samclip.benchmarks.records import State, Timing

FIGURES = ["n", "min", "mean", "median", "p90", "p95", "p99", "max", "CV", "throughput"]
ORDER = ("pipeline", "process", "task", "stage")
Named = list[tuple[str, Timing]]
Groups = dict[tuple[str, str], Named]


def latency_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where nothing was timed."""
    warm, cold = (_by_name(sources, state) for state in ("warm", "cold"))
    if not warm and not cold:
        return
    yield el("h2", "How long it takes", id="latency")
    yield el(
        "p",
        "Every dot is one measurement; the line is the median, the dashed tick p95. Axes begin at "
        "zero.",
        class_="soft",
    )
    yield el("div", *(_figure(name, found) for (_, name), found in warm.items()), class_="plots")
    if cold:
        yield el("h3", "Cold: the first time in a new model or process")
        plots = [_figure(name, found) for (kind, name), found in cold.items() if kind != "task"]
        yield el("div", *plots, class_="plots")
    for state, found in (("warm", warm), ("cold", cold)):
        if found:
            title = el("summary", f"All figures, {state}")
            yield el("details", title, _figures(found))


def _by_name(sources: NamedReports, state: State) -> Groups:
    """Group what is no part of anything by kind and name, pipelines first."""
    found: Groups = {}
    timings = [pair for pair in sources.timings(state) if pair[1].part_of is None]
    for name, timing in sorted(timings, key=lambda pair: ORDER.index(pair[1].kind)):
        found.setdefault((timing.kind, timing.name), []).append((name, timing))
    return found


def _figure(name: str, found: Named) -> Element:
    series = [Series(model, t.samples, place) for place, (model, t) in enumerate(found)]
    counts = sorted({len(timing.samples) for _, timing in found})
    many = " and ".join(map(str, counts))
    text = f"{name}, {many} samples each" if len(found) > 1 else f"{name}, {many} samples"
    return el("figure", el("h3", name), dots(series, SECONDS, text))


def _figures(groups: Groups) -> Element:
    rows: list[list[Child]] = [
        [name, model, *_row(timing)]
        for (_, name), found in groups.items()
        for model, timing in found
    ]
    return table(["what", "model", *FIGURES], rows, left=2)


def _row(timing: Timing) -> list[Child]:
    found = summary_of(timing)
    times = (found.min, found.mean, found.median, found.p90, found.p95, found.p99, found.max)
    noise = NONE if found.noise is None else percent(found.noise)
    rate = f"{digits(found.throughput)} {timing.item}s/s"
    return [str(found.n), *(seconds(value) for value in times), noise, rate]


OTHER, UNEXPLAINED = "other", "not in any stage"
WIDE = 3  # models
LEAST = 1e-3  # of the whole: a gap below it is rounding
STATES: tuple[State, ...] = ("warm", "cold")
Stages = dict[str, float]  # mean seconds


def stage_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where nothing was timed in stages."""
    found = [
        (model, timing, stages)
        for state in STATES
        for model, timing in sources.timings(state)
        if timing.part_of is None and (stages := _stages(sources, model, timing))
    ]
    if not found:
        return
    yield el("h2", "Where the time goes", id="stages")
    yield el(
        "p",
        "Means, because means of stages add up to the mean of the whole. What no stage accounts "
        "for is shown as a part of its own.",
        class_="soft",
    )
    for state in STATES:
        of_state = [entry for entry in found if entry[1].state == state]
        for name in dict.fromkeys(timing.name for _, timing, _ in of_state):
            title = name if state == "warm" else f"{name}, cold"
            yield _stage_figure(title, [entry for entry in of_state if entry[1].name == name])


def _stages(sources: NamedReports, model: str, whole: Timing) -> Stages:
    """Give the mean of each stage, the largest first, and of what is left of the whole."""
    parts = {
        timing.name: fmean(timing.samples)
        for name, timing in sources.timings(whole.state)
        if name == model and timing.part_of == whole.name
    }
    if not parts:
        return {}
    rest = fmean(whole.samples) - sum(parts.values())
    ordered = dict(sorted(parts.items(), key=lambda part: (part[0] == OTHER, -part[1])))
    if abs(rest) > LEAST * fmean(whole.samples):
        ordered[UNEXPLAINED] = rest
    return ordered


def _stage_figure(name: str, found: list[tuple[str, Timing, Stages]]) -> Element:
    order = list(dict.fromkeys(stage for _, _, stages in found for stage in stages))
    fills = [_colour(stage, place) for place, stage in enumerate(order)]
    series = [
        Series(model, [max(0.0, stages.get(stage, 0.0)) for stage in order], fills=fills)
        for model, _, stages in found
    ]
    label = f"Stages of {name}: {', '.join(order)}"
    drawing = el("figure", bars(series, SECONDS, label))
    beside = "side" if len(found) < WIDE else None  # more columns than fit beside the drawing
    return el("div", el("h3", name), el("div", drawing, _legend(order, found), class_=beside))


def _legend(order: list[str], found: list[tuple[str, Timing, Stages]]) -> Element:
    head = ["stage"]
    for model, _, _ in found:
        head += [model, "share"] if len(found) > 1 else ["mean", "share"]
    rows: list[list[Child]] = []
    for place, stage in enumerate(order):
        row: list[Child] = [_named(stage, place)]
        for _, timing, stages in found:
            value, whole = stages.get(stage, 0.0), fmean(timing.samples)
            row += [seconds(value), percent(value / whole)]
        rows.append(row)
    total: list[Child] = ["whole"]
    for _, timing, stages in found:
        whole = fmean(timing.samples)
        total += [seconds(whole), percent(sum(stages.values()) / whole)]
    made = table(head, [*rows, total])
    list(made.iter("tr"))[-1].set("class", "sum")
    return made


def _named(stage: str, place: int) -> Element:
    key = el("span", class_="key", style=f"background: {_colour(stage, place)}")
    return el("span", key, stage)


def _colour(stage: str, place: int) -> str:
    return REST if stage in {OTHER, UNEXPLAINED} else colour(place)


def energy_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where energy was not asked for."""
    found = [entry for source in sources.all for entry in source.report.energy]
    if not found:
        return
    yield el("h2", "What energy it takes", id="energy")
    rows: list[list[Child]] = [
        [
            entry.name,
            entry.model,
            entry.sensor or entry.reason or NONE,
            NONE if entry.per_run is None else f"{digits(entry.per_run)} J",
            str(entry.runs),
        ]
        for entry in found
    ]
    yield table(["what", "model", "sensor", "a run", "runs"], rows, left=3)


def memory_section(sources: NamedReports) -> Iterator[Element]:
    """Give the section, nothing where no memory was measured."""
    found = list(sources.memory())
    if not found:
        return
    yield el("h2", "How much memory it takes", id="memory")
    yield el(
        "p",
        "Highest resident set of a fresh process for each stage, those before it included; the "
        "highest of several processes.",
        class_="soft",
    )
    plots = []
    for place, model in enumerate(dict.fromkeys(name for name, _ in found)):
        series = [
            Series(use.stage, [use.peak_rss / MIB], place) for name, use in found if name == model
        ]
        drawing = bars(series, MEBIBYTES, f"Peak memory of {model} in MiB, by stage")
        plots.append(el("figure", el("h3", model), drawing))
    yield el("div", *plots, class_="plots")
    rows: list[list[Child]] = [
        [
            model,
            use.stage,
            mebibytes(use.peak_rss),
            str(len(use.peaks)),
            NONE if use.disk is None else mebibytes(use.disk),
            NONE if use.device_memory is None else mebibytes(use.device_memory),
        ]
        for model, use in found
    ]
    head = ["model", "stage", "peak", "processes", "read from disk", "GPU"]
    yield el("details", el("summary", "All figures of memory"), table(head, rows, left=2))
    for reason in sorted({use.device_reason for _, use in found if use.device_reason}):
        yield el("p", f"GPU memory: {reason}", class_="soft")
