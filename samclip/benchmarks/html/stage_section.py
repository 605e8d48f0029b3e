"""Where the time goes: stages as parts of a bar that is as long as the whole."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import SECONDS, percent, seconds
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.html.style import REST, colour
from samclip.benchmarks.latency.timing import State, Timing

OTHER, UNEXPLAINED = "other", "not in any stage"
WIDE = 3  # models
LEAST = 1e-3  # of the whole: a gap below it is rounding
STATES: tuple[State, ...] = ("warm", "cold")
Stages = dict[str, float]  # mean seconds


def stage_section(sources: Sources) -> Iterator[Element]:
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


def _stages(sources: Sources, model: str, whole: Timing) -> Stages:
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
