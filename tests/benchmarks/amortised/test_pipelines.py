from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model

from samclip.benchmarks.amortised import pipelines as ways
from samclip.benchmarks.amortised.clip_vision import ClipVisionConfig
from samclip.benchmarks.amortised.comparison import Cost, amortised_table, cost_of, make_rows
from samclip.benchmarks.amortised.pipelines import (
    DENSE,
    MERGED,
    WHOLE,
    Models,
    grid,
    measure_ways,
    pipeline,
)
from samclip.benchmarks.amortised.second_model import open_second
from samclip.benchmarks.formats import as_fast
from samclip.benchmarks.latency.rounds import Schedule
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.roofline.count import GraphWork
from samclip.engines.base import EngineOptions
from samclip.engines.registry import get_backend
from samclip.progress import SILENT

SMALL = ClipVisionConfig(width=16, layers=1, heads=2, patch=32, dim=8)


@pytest.fixture(scope="module")
def timings(photo_path: Path) -> list[Timing]:
    backend, options = get_backend("onnxruntime"), EngineOptions(threads=1)
    whole, dense = (
        open_second(SMALL, backend, options, 20, dense=dense) for dense in (False, True)
    )
    models = Models(fake_model(), fake_model(clip=False), whole, dense)
    return measure_ways(models, Schedule(0, 1, 2), [photo_path], SILENT)


def test_every_way_adds_up(timings: list[Timing]) -> None:
    assert {timing.model for timing in timings} == {MERGED, WHOLE, DENSE}
    for whole in (timing for timing in timings if timing.kind == "pipeline"):
        parts = [t for t in timings if (t.model, t.part_of) == (whole.model, whole.name)]
        sums = np.sum([part.samples for part in parts], axis=0)
        np.testing.assert_allclose(whole.samples, sums)
        assert len(whole.samples) == 2
        expected = {ways.ENCODE, ways.NAMES, ways.MAP} if whole.model == MERGED else {ways.ENCODE}
        assert expected < {part.name for part in parts}


def test_both_ways_apart_share_one_pass_of_sam(timings: list[Timing]) -> None:
    found = {(t.model, t.name): t.samples for t in timings if t.part_of == pipeline(10)}
    assert found[WHOLE, ways.ENCODE] == found[DENSE, ways.ENCODE]
    assert found[WHOLE, ways.SECOND] != found[DENSE, ways.SECOND]


@pytest.mark.parametrize("count", ways.PROMPTS)
def test_prompts_are_points_inside_the_image(count: int) -> None:
    points = np.asarray(grid((30, 50), count))
    assert points.shape == (count, 1, 2)
    assert len(np.unique(points, axis=0)) == count
    assert (points > 0).all()
    assert (points < (50, 30)).all()


def test_costs_add_what_runs_once_to_the_decoder() -> None:
    def work(macs: int, parameters: int) -> GraphWork:
        from samclip.benchmarks.roofline.count import OperatorWork

        return GraphWork("g", parameters, 0, (OperatorWork("MatMul", "float32", 1, macs, 0, 0),))

    found = cost_of([work(100, 7), work(20, 3)], {1: work(1, 50).macs, 10: work(10, 50).macs})
    assert found == Cost(parameters=10, macs={1: 121, 10: 130})


def test_the_table_holds_the_ways_apart_against_the_merged_one(timings: list[Timing]) -> None:
    costs = {
        way: Cost(2_000_000, dict.fromkeys(ways.PROMPTS, 3 * 10**9)) for way in ways_of(timings)
    }
    rows = {(row.model, row.measure, row.subset): row for row in make_rows(timings, costs)}
    merged = rows[MERGED, "seconds", pipeline(1)]
    apart = rows[DENSE, "seconds", pipeline(1)]
    assert merged.value
    assert apart.value
    ratio = rows[f"{DENSE} / {MERGED}", "seconds", pipeline(1)]
    samples = {
        timing.model: np.asarray(timing.samples)
        for timing in timings
        if timing.name == pipeline(1) and timing.kind == "pipeline"
    }
    assert ratio.value == pytest.approx(np.median(samples[DENSE] / samples[MERGED]))
    assert rows[WHOLE, "vision parameters", "all"].value == 2_000_000
    laid_out = amortised_table(list(rows.values()))
    assert laid_out is not None
    lines = [dict(enumerate(line)) for line in laid_out.texts()]
    assert lines[0][3] == "1.00x as fast"
    assert ratio.value is not None
    assert lines[2][3] == as_fast(ratio.value)
    assert [line[4] for line in lines] == ["3.00 G"] * 3
    assert [line[1] for line in lines] == ["2.00 M"] * 3


def ways_of(timings: list[Timing]) -> list[str]:
    return list(dict.fromkeys(timing.model for timing in timings))
