"""Shares of one whole: rounded so that they add up to it, and compared with what is right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6  # of a part: sums of float32 differ from 1 by as much
BINS = 15  # of shares, in a calibration error


def round_shares(
    shares: Sequence[float] | NDArray[np.floating], parts: int = 100
) -> NDArray[np.int64]:
    """Round K shares of a whole, each in [0, 1], to whole `parts`: K, which add up to `parts`.

    With 100 parts these are percent. Each share is rounded down, and the parts that are then
    missing go to the largest remainders (Hamilton's method), so that a share is off by less than
    one part and a larger share never gets fewer parts. Where the shares add up to less than 1,
    the rest counts as one more share, which is not returned.
    """
    exact = np.asarray(shares, np.float64).reshape(-1) * parts
    exact = np.append(exact, max(0.0, parts - exact.sum()))
    whole = np.floor(exact + ROUNDING).astype(np.int64)
    missing = max(0, parts - int(whole.sum()))
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole[:-1]


def in_percent(
    named: Iterable[tuple[str, float]], decimals: int = 0
) -> list[tuple[str, float, str]]:
    """Add to names and their shares of one whole the text to show, as `12.3%`.

    Give all of them, also those that are not shown; see `round_shares`.
    """
    pairs = list(named)
    scale = 10**decimals
    counts = round_shares([share for _, share in pairs], 100 * scale).tolist()
    texts = [f"{count / scale:.{decimals}f}%" for count in counts]
    return [(name, share, text) for (name, share), text in zip(pairs, texts, strict=True)]


def calibration_gaps(
    shares: NDArray[np.floating], correct: NDArray[np.generic], groups: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Sum what the shares of answers are above their correctness, by group and bin: GxBINS.

    The expected calibration error of Guo et al. (arXiv 1706.04599), section 3, is the sum of these
    gaps' sizes over all bins, divided by the number of answers. `shares`: N in [0, 1]; `correct`:
    N bool or 0 and 1; `groups`: N integers from 0 to G - 1.
    """
    sure = np.asarray(shares, np.float64)
    bins = np.minimum((sure * BINS).astype(np.intp), BINS - 1)
    gaps = np.zeros((int(groups.max(initial=-1)) + 1, BINS))
    np.add.at(gaps, (groups, bins), sure - np.asarray(correct, np.float64))
    return gaps
