"""Rows of a report made of timings: medians with intervals, and ratios to the first model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from samclip.benchmarks.latency.timing import Timing
from samclip.benchmarks.latency.walk import ALL_STEPS, THREE_TASKS
from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import Estimate, median, median_ratio

ENCODER = "encoder"
Key = tuple[str, str, str | None, str]


def make_rows(timings: Sequence[Timing]) -> tuple[Row, ...]:
    """Give each timing's median, its ratio to the first model's, and three tasks to one encoder.

    Intervals are percentile bootstraps over rounds. For a ratio the same rounds are drawn for
    both models, because a busy second slows down both.
    """
    return (*_medians(timings), *_three_tasks(timings), *ratios_to_first(timings))


def ratios_to_first(timings: Sequence[Timing]) -> Iterator[Row]:
    """Divide each model's median by the first one's, row by row."""
    firsts: dict[Key, Timing] = {}
    for timing in timings:
        first = firsts.setdefault(_key(timing), timing)
        if first is timing or len(first.samples) != len(timing.samples) or not all(first.samples):
            continue
        estimate = _of_photos(median_ratio(timing.samples, first.samples), timing)
        name = f"{timing.model} / {first.model}"
        yield make_row(name, _measure(timing), timing.state, estimate, "ratio")


def _medians(timings: Sequence[Timing]) -> Iterator[Row]:
    for timing in timings:
        estimate = _of_photos(median(timing.samples), timing)
        yield make_row(timing.model, _measure(timing), timing.state, estimate, "seconds")


def _three_tasks(timings: Sequence[Timing]) -> Iterator[Row]:
    """Divide the encoder with three tasks by the encoder alone."""
    found = {(t.model, t.kind, t.name, t.part_of): t for t in timings if t.state == "warm"}
    for model in dict.fromkeys(timing.model for timing in timings):
        whole = found.get((model, "pipeline", THREE_TASKS, None))
        encoder = found.get((model, "stage", ENCODER, ALL_STEPS))
        if whole is not None and encoder is not None and all(encoder.samples):
            estimate = _of_photos(median_ratio(whole.samples, encoder.samples), whole)
            yield make_row(model, f"{THREE_TASKS} / encoder alone", "warm", estimate, "ratio")


def _measure(timing: Timing) -> str:
    where = "" if timing.part_of is None else f" (of: {timing.part_of})"
    return f"{timing.kind}: {timing.name}{where}"


def _key(timing: Timing) -> Key:
    return timing.kind, timing.name, timing.part_of, timing.state


def _of_photos(estimate: Estimate, timing: Timing) -> Estimate:
    """Count photos, not rounds; a photo comes again after all others."""
    return replace(estimate, photos=min(timing.photos, estimate.n))
