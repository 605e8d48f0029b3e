from __future__ import annotations

from pathlib import Path

import pytest
from timed_fakes import contender

from samclip.benchmarks.latency.throughput import (
    AHEAD,
    ONE_BY_ONE,
    PHOTOS,
    measure_throughput,
    throughput_rows,
)
from samclip.benchmarks.latency.timing import Timing
from samclip.benchmarks.progress import silent


@pytest.mark.parametrize("clip", [True, False])
def test_both_ways_answer_every_photo(photo_path: Path, clip: bool) -> None:
    one = contender(clip=clip)
    timings = measure_throughput([one], [photo_path], 2, silent)
    assert [(timing.name, len(timing.samples)) for timing in timings] == [
        (ONE_BY_ONE, 2),
        (AHEAD, 2),
    ]
    assert {timing.items for timing in timings} == {PHOTOS}
    engines = one.backend.inner.engines  # type: ignore[attr-defined]
    assert len(engines["encoder"].batches) == PHOTOS * 2 * 3  # a round is not kept
    assert len(engines["mask_decoder"].batches) == PHOTOS * 2 * 3


def test_the_ratio_is_of_throughputs() -> None:
    def timing(name: str, *samples: float) -> Timing:
        return Timing(model="a", kind="pipeline", name=name, samples=samples)

    (row,) = throughput_rows([timing(ONE_BY_ONE, 2.0, 4.0), timing(AHEAD, 1.0, 2.0)])
    assert (row.value, row.unit) == (2.0, "ratio")
    assert throughput_rows([timing("another", 1.0)]) == ()
