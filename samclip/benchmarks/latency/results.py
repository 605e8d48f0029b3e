"""Results of `samclip-bench latency`: rows, tables, warnings, and how the figures are defined.

Tables have trtexec's rows and percentiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from samclip.benchmarks.formats import milliseconds
from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS, THREE_TASKS
from samclip.benchmarks.latency.summary import MAX_VARIATION, summary_of
from samclip.benchmarks.measurements import State, Timing
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.benchmarks.tables import Cell, Column, Table, text_columns

ENCODER = "encoder"
FEWEST_FOR_P99 = 100
PERCENTILES = ("min", "max", "mean", "median", "p90", "p95", "p99")
COLUMNS = (
    *text_columns("what"),
    *(Column(name, milliseconds) for name in PERCENTILES),
    Column("CV", "{:.1%}".format),
    Column("throughput"),
    Column("share", "{:.1%}".format),
)
PROTOCOL = (
    "Every sample is kept; medians stand with 95 % intervals from a bootstrap over rounds. A ratio "
    "is the median of the rounds' own ratios: both models were measured within each.",
    f"'{ALL_STEPS}': a photo's file is decoded, encoded, classified among 20 names, one point is "
    "segmented, and a coarse semantic map of 20 names made. Its stages add up to it, sample by "
    "sample; 'other' is what lies between them.",
    f"'{THREE_TASKS}': the encoder's graph and those three tasks, without decoding and resizing.",
    "A graph's time is that of its run, copies of inputs to a device included; a device is waited "
    "for. 'outputs to host' is the way back.",
    "The CLIP head runs once for each photo, in the first task that needs it: 'classify'. Names "
    "are embedded beforehand; 'embed 20 names' times that with a template that no cache has seen.",
    "'CV' compares rounds of the same photo: photos of different sizes do not count as noise.",
    "'cold' is the first photo of a fresh model, or of a new process; the files of the bundle are "
    "likely in the system's cache.",
)


def make_rows(timings: Sequence[Timing]) -> tuple[Row, ...]:
    """Return each timing's median, its ratio to the first model's, and three tasks to one encoder.

    Intervals are percentile bootstraps over rounds; for ratios see `paired_ratio`.
    """
    return (*_medians(timings), *_three_tasks(timings), *ratios_to_first(timings))


def ratios_to_first(timings: Sequence[Timing]) -> Iterator[Row]:
    """Divide each model by the first one, row by row; stages are for files alone."""
    firsts: dict[tuple[str | None, ...], Timing] = {}
    for timing in timings:
        key = (timing.kind, timing.name, timing.part_of, timing.state)
        first = firsts.setdefault(key, timing)
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
        estimate = median(timing.samples)
        photos = min(timing.photos, estimate.n)  # not rounds: a photo comes again after all others
        estimate = replace(estimate, photos=photos)
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


def _of_photos(estimate: Estimate, timing: Timing) -> Estimate:
    """Count photos, not rounds; a photo comes again after all others."""
    return replace(estimate, photos=min(timing.photos, estimate.n))


def timing_tables(timings: Sequence[Timing], state: State) -> Iterator[Table]:
    """Lay out a table for each model of one state, stages under their pipeline with their share."""
    for model in dict.fromkeys(timing.model for timing in timings):
        chosen = [t for t in timings if t.model == model and t.state == state]
        if not chosen:
            continue
        rows = []
        for whole in (timing for timing in chosen if timing.part_of is None):
            rows.append(_cells(whole, None))
            rows += [_cells(stage, whole) for stage in chosen if stage.part_of == whole.name]
        n = max(len(timing.samples) for timing in chosen)
        note = f"p99 of {n} samples is little less than their maximum" if n < FEWEST_FOR_P99 else ""
        yield Table(COLUMNS, rows, f"{model}, {state}, n = {n}, milliseconds", note)


def _cells(timing: Timing, whole: Timing | None) -> tuple[Cell, ...]:
    found = summary_of(timing)
    rate = f"{found.throughput:.2f} {timing.item}s/s" if timing.kind != "stage" else ""
    return (
        timing.name if whole is None else f"  {timing.name}",
        *(getattr(found, name) for name in PERCENTILES),
        found.noise,
        rate,
        "" if whole is None else found.mean / max(summary_of(whole).mean, 1e-12),
    )


def warn_of_noise(timings: Sequence[Timing]) -> Iterator[str]:
    """Return a warning for each model that varies by more than 5 % on the same photo."""
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
