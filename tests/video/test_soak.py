"""Memory of a watch over 10,000 frames."""

from __future__ import annotations

import gc
import itertools

import pytest
from own_process import resident
from watch_fakes import SquareModel, square

MOST_GROWTH = 20 * 2**20  # bytes


@pytest.mark.slow
def test_ten_thousand_frames_leave_memory_flat() -> None:
    frames = (square(step % 50, step % 30) for step in itertools.count())
    seen = []
    with SquareModel().watch(frames, ["cup"]) as watch:
        for result in itertools.islice(watch, 10_000):
            if result.number in (1_000, 9_999):
                gc.collect()
                seen.append(resident())
    assert len(seen) == 2
    print(f"{(seen[1] - seen[0]) / 1e6:.2f} MB more RSS after 9,000 frames")  # shown by -s
    assert seen[1] - seen[0] <= MOST_GROWTH
