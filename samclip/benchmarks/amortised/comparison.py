"""The amortised table, and its rows: seconds, ratios, parameters and multiply-accumulates.

What each way costs, counted from the graphs that ran.

How the amortised table is defined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from samclip.benchmarks.amortised.pipelines import DENSE, MERGED, PROMPTS, WHOLE, pipeline
from samclip.benchmarks.latency.results import paired_ratio
from samclip.benchmarks.records import Row, Timing
from samclip.benchmarks.roofline.count import Work
from samclip.benchmarks.roofline.count import count as count_work
from samclip.benchmarks.roofline.counted import Counted, count_graph
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.benchmarks.rows import make_row
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


POINT_TOKENS = 2  # a point, and the padding that follows it


def count_ways(merged: Counted, sam: Counted, whole: Work, dense: Work) -> dict[str, Cost]:
    """Count all ways, after a run; `whole` and `dense` are CLIP's. Raises CountError.

    Positions interpolated for the larger pass are no parameters of their own: both have `whole`'s.
    """
    head, encoder = (count_graph(merged, name)[0] for name in ("clip_head", "encoder"))
    other, masks = count_graph(sam, "encoder")[0], _decoder(sam)
    return {
        MERGED: cost_of([encoder, head], _decoder(merged)),
        WHOLE: cost_of([other, whole], masks),
        DENSE: replace(
            cost_of([other, dense], masks), parameters=other.parameters + whole.parameters
        ),
    }


def _decoder(counted: Counted) -> dict[int, Work]:
    """Count the mask decoder for each number of prompts of one point."""
    source = counted.backend.sources["mask_decoder"]
    found = {}
    for prompts in PROMPTS:
        sizes = {"prompts": prompts, "points": POINT_TOKENS}
        found[prompts] = count_work(read_graph(source.onnx, source.name, sizes, source.weights))
    return found


PROTOCOL = (
    "Three tasks: 20 names for the photo, a coarse semantic map of 20 names, and 1, 10 or 100 "
    "points, each a prompt of its own. Decoding of the file is not counted, resizing is.",
    f"'{MERGED}': one encoder pass of one bundle, its CLIP head and mask decoder.",
    f"'{WHOLE}': SAM's pass and masks, and CLIP's vision encoder on the photo at 224 px, which "
    "gives names for the whole photo and no map: it does less.",
    f"'{DENSE}': SAM's pass and masks, and CLIP's vision encoder at 1024 px (1022 px for patches "
    "of 14), whose tokens give names and the map.",
    "CLIP's vision encoder has its full size and RANDOM weights: its time is that of a trained "
    "one, its answers mean nothing. On ONNX Runtime it uses the fused attention operator.",
    "Both ways apart share one measured pass of SAM in each round. Seconds of a way are the sum of "
    "its parts within one round; a ratio is the median of the rounds' own ratios.",
    "Parameters and multiply-accumulates are counted from the ONNX graphs; parameters are those of "
    "vision encoders and CLIP heads, the mask decoder left out, which all ways have.",
)
