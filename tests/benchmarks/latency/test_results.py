from __future__ import annotations

import io

import pytest
from rich.console import Console

from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS, THREE_TASKS
from samclip.benchmarks.latency.results import make_rows, timing_tables, warn_of_noise
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.tables import show_table


def timing(model: str, name: str, *samples: float, part_of: str | None = None) -> Timing:
    kind = "stage" if part_of else "pipeline"
    return Timing(model=model, kind=kind, name=name, samples=samples, photos=2, part_of=part_of)


def test_ratios_are_to_the_first_model_and_of_the_same_rounds() -> None:
    busy = (1.0, 9.0, 1.0, 5.0)  # a busy machine: the seconds vary, the ratio does not
    rows = make_rows(
        [timing("a", "x", *busy), timing("b", "x", *(2 * s for s in busy)), timing("b", "y", 1.0)]
    )
    found = {(row.model, row.measure): row for row in rows}
    ratio = found["b / a", "pipeline: x"]
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert (ratio.n, ratio.photos, ratio.unit) == (4, 2, "ratio")
    assert found["a", "pipeline: x"].value == 3.0
    assert found["a", "pipeline: x"].low < 3.0 < found["a", "pipeline: x"].high
    assert ("b / a", "pipeline: y") not in found


def test_three_tasks_are_held_against_the_encoder_alone() -> None:
    rows = make_rows(
        [
            timing("a", THREE_TASKS, 1.2, 2.4),
            timing("a", "encoder", 1.0, 2.0, part_of=ALL_STEPS),
        ]
    )
    (row,) = (row for row in rows if row.unit == "ratio")
    assert row.measure == "encoder and three tasks / encoder alone"
    assert row.value == pytest.approx(1.2)


def test_tables_have_stages_under_their_whole_with_their_share() -> None:
    timings = [
        timing("a", "whole", 1.0, 1.0),
        timing("a", "most", 0.75, 0.75, part_of="whole"),
        timing("a", "other", 0.25, 0.25, part_of="whole"),
    ]
    (table,) = timing_tables(timings, "warm")
    console = Console(file=io.StringIO(), width=200)
    console.print(show_table(table))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("whole" in line and "1000.00" in line and "1.00 images/s" in line for line in lines)
    assert any("  most" in line and "75.0%" in line for line in lines)
    assert list(timing_tables(timings, "cold")) == []


def test_noise_of_the_same_photo_is_warned_of_and_different_photos_are_none() -> None:
    assert list(warn_of_noise([timing("a", "x", 1.0, 9.0, 1.0, 9.0)])) == []
    (line,) = warn_of_noise([timing("a", "x", 1.0, 9.0, 3.0, 9.0), timing("a", "y", *[1.0] * 4)])
    assert "above 5% for x 18%." in line  # sqrt((1 + 1) / 2) / 5.5
