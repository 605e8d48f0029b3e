"""The amortised comparison: costs, rows, its table, and how its figures are defined.

One encoder pass for three tasks is compared with SAM and CLIP run apart: seconds, ratios,
parameters and multiply-accumulates, the last two counted from the graphs that ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from samclip.benchmarks.amortised.pipelines import DENSE, MERGED, PROMPTS, WHOLE, pipeline
from samclip.benchmarks.formats import as_fast, large, seconds
from samclip.benchmarks.latency.results import paired_ratio
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Row
from samclip.benchmarks.roofline.count import GraphWork, count
from samclip.benchmarks.roofline.counted import Counted, count_graph
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.benchmarks.tables import Cell, Column, Table, text_columns
from samclip.runtime.graph_outputs import DECODING_GRAPHS

WAYS = (MERGED, WHOLE, DENSE)
SECONDS, MACS, PARAMETERS = "seconds", "multiply-accumulates", "vision parameters"
POINT_TOKENS = 2  # a point, and the padding that follows it
PROTOCOL = (
    "Three tasks: 20 names for the photo, a coarse semantic map of 20 names, and 1, 10 or 100 "
    "points, each a separate prompt. Decoding of the file is not counted, resizing is.",
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


@dataclass(frozen=True)
class Cost:
    """The cost of a way, counted from its graphs.

    `parameters`: of vision encoders and CLIP heads, without the mask decoder, which all ways have.
    `macs`: by the number of prompts, the mask decoder included.
    """

    parameters: int
    macs: Mapping[int, int]


def count_ways(
    merged: Counted,
    sam: Counted,
    whole: GraphWork,
    dense: GraphWork,
) -> dict[str, Cost]:
    """Count all ways, after a run; `whole` and `dense` are CLIP's. Raises CountError.

    Positions interpolated for the larger pass are not parameters: both have `whole`'s.
    """
    head, encoder = (count_graph(merged, name)[0] for name in ("clip_head", "encoder"))
    other, masks = count_graph(sam, "encoder")[0], _count_decoder(sam)
    apart = cost_of([other, dense], masks)
    return {
        MERGED: cost_of([encoder, head], _count_decoder(merged)),
        WHOLE: cost_of([other, whole], masks),
        DENSE: replace(apart, parameters=other.parameters + whole.parameters),
    }


def _count_decoder(model: Counted) -> dict[int, int]:
    """Count what the decoder's graphs multiply for each number of prompts of one point."""
    sources = [model.backend.sources.get(graph) for graph in DECODING_GRAPHS]
    found = {}
    for prompts in PROMPTS:
        sizes = {"prompts": prompts, "points": POINT_TOKENS}
        found[prompts] = sum(
            count(read_graph(source.onnx, source.name, sizes, source.weights)).macs
            for source in sources
            if source is not None
        )
    return found


def cost_of(vision: Sequence[GraphWork], decoder: Mapping[int, int]) -> Cost:
    """Add up the graphs that run once, and the decoder's work for each number of prompts."""
    once = sum(work.macs for work in vision)
    return Cost(
        parameters=sum(work.parameters for work in vision),
        macs={prompts: once + macs for prompts, macs in decoder.items()},
    )


def make_rows(timings: Sequence[Timing], costs: Mapping[str, Cost]) -> tuple[Row, ...]:
    """Return the seconds of each way, ratios of the ways apart to the merged one, and costs."""
    return (*_seconds(timings), *_ratios(timings), *_costs(costs))


def _wholes(timings: Sequence[Timing]) -> dict[tuple[str, int], Timing]:
    found = {(t.model, t.name): t for t in timings if t.kind == "pipeline"}
    return {(way, prompts): found[way, pipeline(prompts)] for way in WAYS for prompts in PROMPTS}


def _seconds(timings: Sequence[Timing]) -> Iterator[Row]:
    for (way, prompts), timing in _wholes(timings).items():
        estimate = median(timing.samples)
        estimate = replace(estimate, photos=min(timing.photos, estimate.n))
        yield make_row(way, SECONDS, pipeline(prompts), estimate, "seconds")


def _ratios(timings: Sequence[Timing]) -> Iterator[Row]:
    wholes = _wholes(timings)
    for way in WAYS[1:]:
        for prompts in PROMPTS:
            merged, apart = wholes[MERGED, prompts], wholes[way, prompts]
            estimate = paired_ratio(apart.samples, merged.samples, apart.photos)
            yield make_row(f"{way} / {MERGED}", SECONDS, pipeline(prompts), estimate, "ratio")


def _costs(costs: Mapping[str, Cost]) -> Iterator[Row]:
    for way, cost in costs.items():
        yield make_row(way, PARAMETERS, "all", _exactly(cost.parameters), "count")
        for prompts, macs in cost.macs.items():
            yield make_row(way, MACS, pipeline(prompts), _exactly(macs), "count")


def _exactly(value: int) -> Estimate:
    return Estimate(float(value), math.nan, math.nan, 1, 0)


def ratios_to_first(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return how many times as long as the first way each way takes, by way and subset.

    The ratio of the rounds where the report has one, else that of the medians.
    """
    timed = [row for row in rows if row.measure == SECONDS and row.unit == "seconds"]
    paired = {(row.model, row.subset): row.value for row in rows if row.unit == "ratio"}
    firsts: dict[str, Row] = {}
    found = {}
    for row in timed:
        first = firsts.setdefault(row.subset, row)
        ratio = paired.get((f"{row.model} / {first.model}", row.subset))
        if ratio is None and row.value and first.value:
            ratio = row.value / first.value
        if ratio is not None:
            found[row.model, row.subset] = ratio
    return found


def amortised_table(rows: Sequence[Row]) -> Table | None:
    """Lay out the ways below each other: seconds, ratios and MACs for each number of prompts.

    None where no way was timed.
    """
    values = {(row.measure, row.model, row.subset): row.value for row in rows}
    timed = [row for row in rows if row.measure == SECONDS and row.unit == "seconds"]
    ways = list(dict.fromkeys(row.model for row in timed))
    subsets = list(dict.fromkeys(row.subset for row in timed))
    if not ways:
        return None
    ratios = ratios_to_first(rows)
    columns = [*text_columns("way"), Column(PARAMETERS, large)]
    for subset in subsets:
        short = subset.partition(", ")[2] or subset
        columns += [
            Column(short, seconds),
            Column(f"against {ways[0]}", as_fast),
            Column("MACs", large),
        ]
    lines: list[list[Cell]] = []
    for way in ways:
        line: list[Cell] = [way, values.get((PARAMETERS, way, "all"))]
        for subset in subsets:
            line += [
                values.get((SECONDS, way, subset)),
                ratios.get((way, subset)),
                values.get((MACS, way, subset)),
            ]
        lines.append(line)
    return Table(columns, lines, note="three tasks")
