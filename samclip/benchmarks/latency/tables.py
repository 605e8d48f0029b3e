"""Timings as tables: trtexec's rows and percentiles, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.latency.summary import MAX_VARIATION, Summary, summary_of
from samclip.benchmarks.latency.timing import State, Timing
from samclip.cli.tables import make_table

COLUMNS = ("min", "max", "mean", "median", "p90", "p95", "p99", "CV", "throughput")
FEWEST_FOR_P99 = 100


def show_timings(timings: Sequence[Timing], state: State) -> Iterator[Table]:
    """Give a table for each model of one state, a pipeline's stages under it with their share."""
    for model in dict.fromkeys(timing.model for timing in timings):
        chosen = [t for t in timings if t.model == model and t.state == state]
        if chosen:
            yield _show_model(model, state, chosen)


def warn_of_noise(timings: Sequence[Timing]) -> Iterator[str]:
    """Say which pipelines and tasks vary by more than 5 % between rounds of the same photo."""
    for model in dict.fromkeys(timing.model for timing in timings):
        noisy = [
            f"{timing.name} {noise:.0%}"
            for timing in timings
            if timing.model == model and timing.state == "warm" and timing.kind != "stage"
            if (noise := summary_of(timing).noise) is not None and noise > MAX_VARIATION
        ]
        if noisy:
            yield (
                f"{model}: the coefficient of variation is above {MAX_VARIATION:.0%} for "
                f"{', '.join(noisy)}. Other work is going on, or clocks move: trust ratios within "
                "this run more than seconds."
            )


def _show_model(model: str, state: State, timings: Sequence[Timing]) -> Table:
    table = make_table("what", *COLUMNS, "share", left=("what",))
    n = max(len(timing.samples) for timing in timings)
    table.title = escape(f"{model}, {state}, n = {n}, milliseconds")
    table.title_justify = "left"
    if n < FEWEST_FOR_P99:
        table.caption = f"p99 of {n} samples is little less than their maximum"
        table.caption_justify = "left"
    for timing in timings:
        if timing.part_of is None:
            _add(table, timing, None)
            for stage in timings:
                if stage.part_of == timing.name:
                    _add(table, stage, timing)
    return table


def _add(table: Table, timing: Timing, whole: Timing | None) -> None:
    found = summary_of(timing)
    share = "" if whole is None else f"{found.mean / max(summary_of(whole).mean, 1e-12):.1%}"
    indent = "" if whole is None else "  "
    table.add_row(escape(indent + timing.name), *_cells(found, timing), share)


def _cells(found: Summary, timing: Timing) -> Iterator[str]:
    for seconds in (found.min, found.max, found.mean, found.median, found.p90, found.p95):
        yield f"{seconds * 1e3:.2f}"
    yield f"{found.p99 * 1e3:.2f}"
    yield "-" if found.noise is None else f"{found.noise:.1%}"
    yield f"{found.throughput:.2f} {timing.item}s/s" if timing.kind != "stage" else ""
