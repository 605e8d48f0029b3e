"""How long things take: every sample drawn, and the usual figures."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, SECONDS, digits, percent, seconds
from samclip.benchmarks.html.plots import Series, dots
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.latency.summary import summary_of
from samclip.benchmarks.latency.timing import State, Timing

FIGURES = ["n", "min", "mean", "median", "p90", "p95", "p99", "max", "CV", "throughput"]
ORDER = ("pipeline", "process", "task", "stage")
Named = list[tuple[str, Timing]]
Groups = dict[tuple[str, str], Named]


def latency_section(sources: Sources) -> Iterator[Element]:
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


def _by_name(sources: Sources, state: State) -> Groups:
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
