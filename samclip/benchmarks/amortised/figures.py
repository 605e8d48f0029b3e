"""The amortised table, and its rows: seconds, ratios, parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from samclip.benchmarks.amortised.ways import DENSE, MERGED, PROMPTS, WHOLE, pipeline
from samclip.benchmarks.latency.figures import paired_ratio
from samclip.benchmarks.latency.timing import Timing
from samclip.benchmarks.roofline.work import Work
from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.cli.tables import make_table

WAYS = (MERGED, WHOLE, DENSE)


@dataclass(frozen=True)
class Cost:
    """What a way costs, counted from its graphs.

    `parameters`: of vision encoders and CLIP heads, without the mask decoder, which all ways have.
    `macs`: by the number of prompts, the mask decoder included.
    """

    parameters: int
    macs: Mapping[int, int]


def cost_of(vision: Sequence[Work], decoder: Mapping[int, Work]) -> Cost:
    """Add up the graphs that run once, and the decoder for each number of prompts."""
    once = sum(work.macs for work in vision)
    return Cost(
        parameters=sum(work.parameters for work in vision),
        macs={count: once + work.macs for count, work in decoder.items()},
    )


def make_rows(timings: Sequence[Timing], costs: Mapping[str, Cost]) -> tuple[Row, ...]:
    """Give seconds of each way, ratios of the ways apart to the merged one, and costs."""
    return (*_seconds(timings), *_ratios(timings), *_costs(costs))


def _wholes(timings: Sequence[Timing]) -> dict[tuple[str, int], Timing]:
    found = {(t.model, t.name): t for t in timings if t.kind == "pipeline"}
    return {(way, count): found[way, pipeline(count)] for way in WAYS for count in PROMPTS}


def _seconds(timings: Sequence[Timing]) -> Iterator[Row]:
    for (way, count), timing in _wholes(timings).items():
        estimate = _of_photos(median(timing.samples), timing)
        yield make_row(way, "seconds", pipeline(count), estimate, "seconds")


def _ratios(timings: Sequence[Timing]) -> Iterator[Row]:
    wholes = _wholes(timings)
    for way in WAYS[1:]:
        for count in PROMPTS:
            merged, apart = wholes[MERGED, count], wholes[way, count]
            estimate = paired_ratio(apart.samples, merged.samples, apart.photos)
            name = f"{way} / {MERGED}"
            yield make_row(name, "seconds", pipeline(count), estimate, "ratio")


def _costs(costs: Mapping[str, Cost]) -> Iterator[Row]:
    for way, cost in costs.items():
        yield _count(way, "vision parameters", "all", cost.parameters)
        for count, macs in cost.macs.items():
            yield _count(way, "multiply-accumulates", pipeline(count), macs)


def _count(way: str, measure: str, subset: str, value: int) -> Row:
    return Row(
        model=way,
        measure=measure,
        subset=subset,
        value=float(value),
        low=None,
        high=None,
        n=1,
        photos=0,
        unit="count",
    )


def show_amortised(timings: Sequence[Timing], costs: Mapping[str, Cost]) -> Table:
    """Show the ways beside each other: milliseconds, ratios, GMACs, and vision parameters."""
    columns = [f"{name} {count}" for count in PROMPTS for name in ("ms,", "x merged,", "GMACs,")]
    table = make_table("way", *columns, "vision parameters", left=("way",))
    wholes = _wholes(timings)
    for way in WAYS:
        cells = []
        for count in PROMPTS:
            samples, base = wholes[way, count].samples, wholes[MERGED, count].samples
            cells.append(f"{median(samples).value * 1e3:,.1f}")
            cells.append(f"{paired_ratio(samples, base, 1).value:.2f}")
            cells.append(f"{costs[way].macs[count] / 1e9:,.1f}")
        table.add_row(way, *cells, f"{costs[way].parameters / 1e6:.1f} M")
    prompts = ", ".join(map(str, PROMPTS))
    table.caption = f"three tasks with {prompts} prompts; x merged: times as long as merged"
    table.caption_justify = "left"
    return table


def _of_photos(estimate: Estimate, timing: Timing) -> Estimate:
    return replace(estimate, photos=min(timing.photos, estimate.n))
