"""The usual figures of samples: percentiles, variation, noise, and throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.measurements import Timing
from samclip.errors import InputError

MAX_VARIATION = 0.05  # coefficient of variation above which figures are doubtful


@dataclass(frozen=True)
class Summary:
    """Figures of N samples in seconds; `throughput` in items per second.

    `std`: with N - 1 in the denominator, `variation`: std / mean, both None for one sample.
    `noise`: as `variation`, of the distances from the mean of the sample's photo, so that photos
    of different sizes do not count as noise; None where no photo came twice. Percentiles are
    interpolated linearly between samples, so that with few of them p99 is little less than `max`.
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
    noise: float | None
    throughput: float

    @property
    def is_steady(self) -> bool:
        """Whether the noise, a coefficient of variation, is known and at most 5 %."""
        return self.noise is not None and self.noise <= MAX_VARIATION


def summarise(samples: Sequence[float], items: int = 1, photos: int = 1) -> Summary:
    """Sum up seconds of `photos` photos in turn, each sample of `items` items.

    Raises InputError for none.
    """
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
        noise=_noise(values, photos),
        throughput=items / mean if mean > 0 else float("inf"),
    )


def summary_of(timing: Timing) -> Summary:
    """Sum up a timing; see `summarise`."""
    return summarise(timing.samples, timing.items, timing.photos)


def _noise(values: NDArray[np.float64], photos: int) -> float | None:
    """Pool the variance within photos: sum of squares over N less the number of photos."""
    groups = [values[place::photos] for place in range(min(photos, values.size))]
    free, mean = values.size - len(groups), float(values.mean())
    if free < 1 or mean <= 0:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return math.sqrt(squares / free) / mean
