"""Estimates with confidence intervals: percentile bootstrap over photos (Efron 1979).

Objects of one photo are alike, so whole photos are drawn, with replacement, with all their objects:
an interval over objects alone would be too narrow. Draws are seeded, so the
same results give the same interval. Two models on the same photos are compared by drawing the
same photos for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.runtime.results.shares import calibration_gaps

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
DRAWS_AT_ONCE = 2**22  # 32 MB of indices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its 95 % interval, and what it was measured on."""

    value: float
    low: float
    high: float
    n: int
    photos: int


def mean(values: ArrayLike, photos: ArrayLike) -> Estimate:
    """Average N `values`, each of the photo that `photos`, N integers, names."""
    sums, counts = _by_photo(values, photos)
    return _estimate(len(sums), int(counts.sum()), lambda w: (w @ sums) / (w @ counts))


def ratio(values: ArrayLike, base: ArrayLike, photos: ArrayLike) -> Estimate:
    """Divide the mean of N `values` by that of N `base`, of the same objects of the same `photos`.

    NaN where the base is 0.
    """
    sums, counts = _by_photo(values, photos)
    bases, _ = _by_photo(base, photos)

    def divide(weights: NDArray[np.int64]) -> Floats:
        below = weights @ bases
        out: Floats = np.divide(
            weights @ sums, below, out=np.full(len(below), np.nan), where=below > 0
        )
        return out

    return _estimate(len(sums), int(counts.sum()), divide)


def median(values: ArrayLike) -> Estimate:
    """Take the median of P values, one a photo."""
    array = np.asarray(values, np.float64)
    return _of_draws(array.size, lambda draws: np.asarray(np.median(array[draws], axis=1)))


def median_ratio(values: ArrayLike, base: ArrayLike) -> Estimate:
    """Divide the median of P `values` by that of P positive `base`, both one a photo."""
    above, below = np.asarray(values, np.float64), np.asarray(base, np.float64)
    return _of_draws(
        above.size,
        lambda draws: np.asarray(np.median(above[draws], axis=1) / np.median(below[draws], axis=1)),
    )


def mean_iou(tallies: NDArray[np.int64]) -> Estimate:
    """Average the IoU of the classes that occur in the truth; see `class_ious`.

    `tallies`: Px3xK, for each of P photos and K classes the pixels that are of the class in both
    maps, in the truth, and in the answer. `n` of the estimate is the pixels of the truth.
    """
    flat = tallies.reshape(len(tallies), -1).astype(np.float64)  # Px3xK -> Px3K

    def evaluate(weights: NDArray[np.int64]) -> Floats:
        sums = (weights @ flat).reshape(len(weights), *tallies.shape[1:])  # Rx3K -> Rx3xK
        ious = class_ious(sums)
        counts = np.count_nonzero(~np.isnan(ious), axis=1)  # a draw may miss all that has truth
        totals = np.nansum(ious, axis=1)
        out: Floats = np.divide(totals, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        return out

    return _estimate(len(tallies), int(tallies[:, 1].sum()), evaluate)


def calibration_error(shares: ArrayLike, correct: ArrayLike, photos: ArrayLike) -> Estimate:
    """Average the gap between shares and accuracy over bins of equal width, weighted by answers.

    The expected calibration error of Guo et al. (arXiv 1706.04599), section 3, with their 15 bins:
    see `calibration_gaps`.
    `shares`: N in [0, 1], `correct`: N bool, `photos`: N integers. It cannot be negative, so draws
    of few photos lie above the value of all of them: the interval is not centred on it.
    """
    _, place = np.unique(np.asarray(photos), return_inverse=True)
    gaps = calibration_gaps(np.asarray(shares), np.asarray(correct), place)
    counts = np.bincount(place).astype(np.float64)
    return _estimate(len(gaps), len(place), lambda w: np.abs(w @ gaps).sum(axis=1) / (w @ counts))


def class_ious(sums: NDArray[np.floating] | NDArray[np.int64]) -> Floats:
    """Divide ...x3xK pixels (both, truth, answer) to IoUs, ...xK; NaN for a class not in the truth.

    A class that is answered but nowhere in the truth is not averaged: its pixels already count
    against the classes that are there.
    """
    both, truth, answer = (np.asarray(sums[..., part, :], np.float64) for part in range(3))
    iou = np.full(both.shape, np.nan)
    out: Floats = np.divide(both, truth + answer - both, out=iou, where=truth > 0)
    return out


def _by_photo(values: ArrayLike, photos: ArrayLike) -> tuple[Floats, Floats]:
    """Sum and count values photo by photo."""
    _, place = np.unique(np.asarray(photos), return_inverse=True)
    numbers = np.asarray(values, np.float64)
    sums = np.bincount(place, numbers).astype(np.float64)
    return sums, np.bincount(place).astype(np.float64)


def _estimate(photos: int, n: int, statistic: Callable[[NDArray[np.int64]], Floats]) -> Estimate:
    """Evaluate `statistic` of RxP weights, how often each photo counts, at ones and at draws."""
    value = statistic(np.ones((1, photos), np.int64))[0]
    found = [
        statistic(np.stack([np.bincount(row, minlength=photos) for row in draws]))
        for draws in _draws(photos)
    ]
    return _interval(float(value), np.concatenate(found), n, photos)


def _of_draws(photos: int, statistic: Callable[[NDArray[np.intp]], Floats]) -> Estimate:
    """Evaluate `statistic` of RxP indices of photos, at all of them and at draws."""
    value = statistic(np.arange(photos)[None])[0]
    found = [statistic(draws) for draws in _draws(photos)]
    return _interval(float(value), np.concatenate(found), photos, photos)


def _draws(photos: int) -> Iterator[NDArray[np.intp]]:
    """Draw photos with replacement, RESAMPLES times, some at once: RxP."""
    generator = np.random.default_rng(SEED)
    at_once = max(1, DRAWS_AT_ONCE // photos)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        yield generator.integers(0, photos, (rows, photos), np.intp)


def _interval(value: float, found: Floats, n: int, photos: int) -> Estimate:
    sound = found[np.isfinite(found)]
    if not sound.size:
        return Estimate(value, float("nan"), float("nan"), n, photos)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sound, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n, photos)
