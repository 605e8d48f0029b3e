from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_model
from timed_fakes import contender

from samclip.benchmarks.latency.throughput import (
    AT_ONCE,
    ONE_BY_ONE,
    PHOTOS,
    STREAMS,
    measure_throughput,
    throughput_rows,
)
from samclip.benchmarks.measurements import Timing
from samclip.progress import SILENT


@pytest.mark.parametrize("clip", [True, False])
def test_both_ways_answer_every_photo(photo_path: Path, clip: bool) -> None:
    one = contender(clip=clip)
    other = fake_model(clip=clip, streams=STREAMS)
    timings = measure_throughput([one], [photo_path], 2, SILENT, lambda _: other)
    assert [(timing.name, len(timing.samples)) for timing in timings] == [
        (ONE_BY_ONE, 2),
        (AT_ONCE, 2),
    ]
    assert {timing.items for timing in timings} == {PHOTOS}
    engines = one.backend.inner.engines  # type: ignore[attr-defined]
    assert len(engines["encoder"].batches) == PHOTOS * 3  # a round is not kept
    assert len(engines["mask_decoder"].batches) == PHOTOS * 3
    assert other.encoder_passes == PHOTOS * 3


def test_the_ratio_is_of_throughputs() -> None:
    def timing(name: str, *samples: float) -> Timing:
        return Timing(model="a", kind="pipeline", name=name, samples=samples)

    (row,) = throughput_rows([timing(ONE_BY_ONE, 2.0, 4.0), timing(AT_ONCE, 1.0, 2.0)])
    assert (row.value, row.unit) == (2.0, "ratio")
    assert throughput_rows([timing("another", 1.0)]) == ()
