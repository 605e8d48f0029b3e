"""The page's first words: a sentence, and the few figures that matter most."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import el
from samclip.benchmarks.html.numbers import mebibytes, of_row, percent, seconds
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.latency.timing import Timing

TILES = 6
Tile = tuple[str, str, str]  # a figure, what it is, of whom


def headline(sources: Sources) -> Iterator[Element]:
    """Give the sentence and the tiles."""
    yield el("p", " ".join(_sentences(sources)), class_="lead")
    tiles = [
        el("div", el("b", value), el("span", what), el("span", who), class_="tile")
        for value, what, who in _tiles(sources)
    ]
    if tiles:
        yield el("div", *tiles[:TILES], class_="tiles")


def _sentences(sources: Sources) -> Iterator[str]:
    """Say what the first report's first model does, and where."""
    first = sources.all[0].report
    where = f"on {first.machine.jetson or first.machine.cpu}, {first.machine.usable_cores} cores"
    pipelines = _pipelines(sources)
    if not pipelines:
        names = [subject.name for subject in first.subjects]
        yield f"{first.benchmark} of {', '.join(names) or 'nothing named'}, {where}."
        return
    model, timing = pipelines[0]
    time = median(timing.samples)
    yield (
        f"{model} goes from {_way(timing)} in {seconds(time)}, the median of "
        f"{len(timing.samples)}, {where}."
    )
    others = [p for p in pipelines[1:] if p[1].name == timing.name and p[0] != model]
    for other, second in others[:3]:
        yield f"{other} takes {median(second.samples) / time:.2f} times as long."


def _way(timing: Timing) -> str:
    return timing.name if " to " in timing.name else f"start to end of '{timing.name}'"


def _pipelines(sources: Sources) -> list[tuple[str, Timing]]:
    return [(name, t) for name, t in sources.timings("warm") if t.kind == "pipeline"]


def _tiles(sources: Sources) -> Iterator[Tile]:
    yield from _speed(sources)
    uses = list(sources.memory())
    if uses:
        model = uses[0][0]
        peak = max(use.peak_rss for name, use in uses if name == model)
        yield mebibytes(peak), "highest memory", model
    for source in sources.all:
        if source.report.roofline is not None:
            graph = source.report.roofline.graphs[0]
            if graph.reached is not None:
                what = f"of the machine's best rate: {graph.graph}"
                yield percent(graph.reached), what, graph.model
        rows = [row for row in source.report.rows if row.unit == "share" and not row.detail]
        for row in rows[:2]:
            yield of_row(row), f"{row.measure}, {row.subset}", row.model


def _speed(sources: Sources) -> Iterator[Tile]:
    pipelines = _pipelines(sources)
    if not pipelines:
        return
    model = pipelines[0][0]
    for name, timing in pipelines:
        if name == model:
            yield seconds(median(timing.samples)), timing.name, model
    stages = [t for name, t in sources.timings("warm") if name == model and t.name == "encoder"]
    if stages:
        yield seconds(median(stages[0].samples)), "of that the encoder", model
