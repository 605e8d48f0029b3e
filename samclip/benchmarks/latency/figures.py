"""Rows of a report made of timings: medians with intervals, and ratios to the first model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from samclip.benchmarks.latency.timing import Timing
from samclip.benchmarks.latency.walk import ALL_STEPS, THREE_TASKS
from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import Estimate, median

ENCODER = "encoder"
Key = tuple[str, str, str | None, str]


def make_rows(timings: Sequence[Timing]) -> tuple[Row, ...]:
    """Give each timing's median, its ratio to the first model's, and three tasks to one encoder.

    Intervals are percentile bootstraps over rounds; for ratios see `paired_ratio`.
    """
    return (*_medians(timings), *_three_tasks(timings), *ratios_to_first(timings))


def ratios_to_first(timings: Sequence[Timing]) -> Iterator[Row]:
    """Divide each model by the first one, row by row; stages are for files alone."""
    firsts: dict[Key, Timing] = {}
    for timing in timings:
        first = firsts.setdefault(_key(timing), timing)
        if first is timing or len(first.samples) != len(timing.samples) or not all(first.samples):
            continue
        estimate = paired_ratio(timing.samples, first.samples, timing.photos)
        name, detail = f"{timing.model} / {first.model}", timing.part_of is not None
        yield make_row(name, _measure(timing), timing.state, estimate, "ratio", detail)


def paired_ratio(values: Sequence[float], base: Sequence[float], photos: int) -> Estimate:
    """Divide round by round, and take the median of the N ratios.

    A busy second slows down all that is measured in its round, and the ratio hardly.
    """
    ratios = np.asarray(values, np.float64) / np.asarray(base, np.float64)
    return replace(median(ratios), photos=min(photos, len(ratios)))


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
            estimate = paired_ratio(whole.samples, encoder.samples, whole.photos)
            yield make_row(model, f"{THREE_TASKS} / encoder alone", "warm", estimate, "ratio")


def _measure(timing: Timing) -> str:
    where = "" if timing.part_of is None else f" (of: {timing.part_of})"
    return f"{timing.kind}: {timing.name}{where}"


def _key(timing: Timing) -> Key:
    return timing.kind, timing.name, timing.part_of, timing.state


def _of_photos(estimate: Estimate, timing: Timing) -> Estimate:
    """Count photos, not rounds; a photo comes again after all others."""
    return replace(estimate, photos=min(timing.photos, estimate.n))
