"""Records of time and energy: every sample as it was measured, and under which settings.

What is told of samples: the usual figures, over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.record import Record
from samclip.errors import InputError

Kind = Literal["stage", "task", "pipeline", "process"]
State = Literal["cold", "warm"]


class Timing(Record, frozen=True, kw_only=True):
    """How long one thing took, each time that it was measured.

    `model`: the subject's name. `kind`: a `stage` is a part of a pipeline, a `task` an answer from
    a scene that is encoded, a `pipeline` all from a file to an answer, a `process` the time of a
    whole new process. `state`: `cold` is the first time in a new model or process.
    `samples`: seconds, in the order of measurement, nothing left out; in a run with several models
    sample i of each was taken in the same round, on the same photo. `items`: how many of `item`
    one sample works on (an image, a prompt, a name): throughput counts those. `photos`: how many
    photos took turns: sample i is of photo i modulo `photos`.
    `part_of`: the name of the pipeline that this stage belongs to: the samples of all stages with
    the same `part_of`, model and state, the one named "other" among them, add up to that
    pipeline's, sample by sample.
    """

    model: str
    kind: Kind
    name: str
    state: State = "warm"
    unit: Literal["seconds"] = "seconds"
    samples: tuple[float, ...]
    items: int = 1
    item: str = "image"
    photos: int = 1
    part_of: str | None = None


class Energy(Record, frozen=True, kw_only=True):
    """What one task takes from the power supply; `joules` None, with the `reason`, if unknown.

    `joules`: of the whole `sensor` (a GPU, a board, its idle part included) over `runs` runs
    that took `seconds` together.
    """

    model: str
    name: str
    joules: float | None
    runs: int
    seconds: float
    sensor: str | None = None
    reason: str | None = None

    @property
    def per_run(self) -> float | None:
        """Joules of one run; None if unknown."""
        return None if self.joules is None or not self.runs else self.joules / self.runs


class Settings(Record, frozen=True, kw_only=True):
    """How a model was run while it was timed.

    `precisions`: of each graph, as it computes. `threads`: asked for, per graph; None for the
    backend's choice. `cuda_graphs`: None where there is no such thing. `transfers`: whether copies
    between host and device are within a stage's time, apart as stages of their own, or do not
    exist. `warm_up`: rounds that were run and not kept; `repeats`: rounds that were.
    """

    model: str
    backend: str
    precisions: dict[str, str]
    threads: int | None
    device: int
    cuda_graphs: bool | None
    transfers: Literal["included", "apart", "none"]
    warm_up: int
    repeats: int


class ClockRange(Record, frozen=True, kw_only=True):
    """A clock and the range it may move in, in hertz; a pinned clock cannot move."""

    name: str
    lowest: float
    highest: float


class Conditions(Record, frozen=True, kw_only=True):
    """What the machine's speed hangs on, beside its hardware; None for what it does not tell.

    `power_mode`: of nvpmodel on a Jetson, elsewhere the CPU's frequency governor. `clocks`: the
    ranges of CPU and GPU; `clocks_pinned`: whether none of them can move. `order`: how models took
    turns.
    """

    power_mode: str | None
    clocks: tuple[ClockRange, ...]
    clocks_pinned: bool | None
    order: str


MAX_VARIATION = 0.05  # coefficient of variation above which figures are doubtful


@dataclass(frozen=True)
class Summary:
    """Figures of N samples in seconds; `throughput` in items per second.

    `std`: with N - 1 in the denominator, `variation`: std / mean, both None for one sample.
    `noise`: as `variation`, of each sample's distance from the mean of its own photo, so that
    photos of different sizes are no noise; None where no photo came twice. Percentiles are
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
