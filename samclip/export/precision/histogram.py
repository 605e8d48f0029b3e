"""A histogram of an activation that grows with what it sees, and ranges cut out of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF = 4096  # bins on either side of 0; after it has grown, at least half of them are in use
LEVELS = 128  # of INT8 on one side
ENTROPY_BINS = 2048
ENTROPY_STEP = 16  # bins between one candidate and the next

Floats = NDArray[np.float32]
Counts = NDArray[np.float64]


class Histogram:
    """Counts of values in even bins from -`bound` to `bound`, which doubles when it must."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * HALF)
        self.bound = 0.0

    def add(self, values: NDArray[np.generic]) -> None:
        """Count values, an array of any shape, all finite."""
        peak = float(np.abs(values).max(initial=0.0))
        if self.bound == 0:
            self.bound = peak
        while peak > self.bound:
            wider = np.zeros_like(self.counts)
            wider[HALF // 2 : HALF // 2 + HALF] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts, self.bound = wider, 2 * self.bound
        if self.bound > 0:
            self.counts += np.histogram(values, 2 * HALF, (-self.bound, self.bound))[0]

    def percentile(self, inside: float) -> tuple[float, float]:
        """Give the range that holds the share `inside` of the values, as much cut off either side.

        From 0 to 1; rounded outwards to whole bins.
        """
        total = self.counts.sum()
        if total == 0:
            return 0.0, 0.0
        share = np.cumsum(self.counts) / total
        tail = (1 - inside) / 2
        low = int(np.searchsorted(share, tail, side="right"))
        high = int(np.searchsorted(share, 1 - tail)) + 1
        edges = np.linspace(-self.bound, self.bound, 2 * HALF + 1)
        return float(edges[low]), float(edges[min(high, 2 * HALF)])

    def entropy(self) -> tuple[float, float]:
        """Give the symmetric range whose INT8 steps lose the least information of magnitudes.

        After Migacz, "8-bit inference with TensorRT" (GTC 2017): the Kullback-Leibler divergence
        between the histogram, what lies outside added to its last bin, and the same in 128 levels.
        """
        sizes = (self.counts[HALF:] + self.counts[:HALF][::-1]).reshape(ENTROPY_BINS, -1)
        magnitudes = sizes.sum(axis=1)
        used = np.flatnonzero(magnitudes)
        if not len(used):
            return 0.0, 0.0
        last = int(used[-1]) + 1
        candidates = [*range(LEVELS, last, ENTROPY_STEP), last]
        losses = [_divergence(magnitudes, bins) for bins in candidates if bins <= last]
        best = candidates[int(np.argmin(losses))] / ENTROPY_BINS * self.bound
        return -best, best


def _divergence(magnitudes: Counts, bins: int) -> float:
    """Compare the first `bins` of a histogram with themselves in 128 levels, in nats.

    The bin at 0 counts no more than its neighbour: exact zeros (of rectifiers, of padding) are
    exact in INT8 too.
    """
    exact = magnitudes[:bins].copy()
    exact[0] = min(exact[0], exact[1]) if bins > 1 else exact[0]
    kept = exact > 0
    level = np.arange(bins) * LEVELS // bins
    mass = np.bincount(level, weights=exact, minlength=LEVELS)
    count = np.bincount(level, weights=kept, minlength=LEVELS)
    coarse = np.where(kept, mass[level] / np.maximum(count[level], 1), 0)
    exact[-1] += magnitudes[bins:].sum()
    p, q = exact / max(exact.sum(), 1), coarse / max(coarse.sum(), 1)
    some = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()  # what no level stands for
    return float((p[some] * np.log(p[some] / q[some])).sum() + lost * np.log(1e6))
