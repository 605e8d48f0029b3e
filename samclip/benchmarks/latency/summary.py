"""What is told of samples: the usual figures, over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samclip.benchmarks.latency.timing import Timing
from samclip.errors import InputError

MAX_VARIATION = 0.05  # coefficient of variation above which figures are doubtful


@dataclass(frozen=True)
class Summary:
    """Figures of N samples in seconds; `throughput` in items per second.

    `std`: with N - 1 in the denominator, `variation`: std / mean, both None for one sample.
    Percentiles are interpolated linearly between samples, so that with few of them p99 is little
    less than `max`.
    """

    n: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    std: float | None
    variation: float | None
    throughput: float

    @property
    def is_steady(self) -> bool:
        """Whether the coefficient of variation is known and at most 5 %."""
        return self.variation is not None and self.variation <= MAX_VARIATION


def summarise(samples: Sequence[float], items: int = 1) -> Summary:
    """Sum up positive seconds, each of `items` items; raises InputError for none."""
    values = np.asarray(samples, np.float64)
    if not values.size:
        raise InputError("there are no samples to sum up. Measure at least one.")
    p90, median, p95, p99 = np.percentile(values, [90, 50, 95, 99]).tolist()
    mean = float(values.mean())
    std = float(values.std(ddof=1)) if values.size > 1 else None
    return Summary(
        n=values.size,
        min=float(values.min()),
        mean=mean,
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(values.max()),
        std=std,
        variation=None if std is None or mean <= 0 else std / mean,
        throughput=items / mean if mean > 0 else float("inf"),
    )


def summary_of(timing: Timing) -> Summary:
    """Sum up a timing; see `summarise`."""
    return summarise(timing.samples, timing.items)
