"""`samclip-bench latency`: what the command prints and writes; the model is a fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS
from samclip.benchmarks.latency.summary import summary_of
from samclip.benchmarks.report import read_report

Bench = Callable[..., Any]


def test_quick_compares_bundles_in_one_run(
    bench: Bench, opened: list[Variant], tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    result = bench("latency", "x", "y", "--quick", "--threads", "2", "--json", file)
    assert result.exit_code == 0, result.stderr
    assert opened == [Variant("x", threads=2), Variant("y", threads=2)]
    assert "fake #2 / fake" in result.stdout
    assert "throughput" in result.stdout
    report = read_report(file)
    assert report.benchmark == "latency"
    assert [subject.name for subject in report.subjects] == ["fake", "fake #2"]
    assert {timing.state for timing in report.timings} == {"warm"}
    stages = [t for t in report.timings if (t.model, t.part_of) == ("fake", ALL_STEPS)]
    (whole,) = (t for t in report.timings if (t.model, t.name) == ("fake", ALL_STEPS))
    totals = [sum(samples) for samples in zip(*(t.samples for t in stages), strict=True)]
    assert totals == pytest.approx(list(whole.samples))
    (settings, _) = report.settings
    assert (settings.threads, settings.warm_up, settings.repeats) == (2, 1, len(whole.samples))
    assert settings.transfers == "included"  # "fake" does not run on the host
    assert report.conditions is not None
    assert "in turn" in report.conditions.order
    row = next(row for row in report.rows if row.measure == f"pipeline: {ALL_STEPS}")
    assert row.value == pytest.approx(summary_of(whole).median)


def test_a_folder_without_photos_is_refused(bench: Bench, tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "no photos"), (tmp_path / "none", "no folder")):
        result = bench("latency", "--quick", "--photos", folder)
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.slow
def test_new_processes_of_the_shipped_bundle(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    options = ("--cold", "1", "--repeats", "2", "--warm-up", "0", "--no-refine", "--limit", "1")
    result = bench("latency", *options, "--json", file)
    assert result.exit_code == 0, result.stderr
    found = {t.name: t for t in read_report(file).timings if t.kind == "process"}
    parts = [t.samples[0] for t in found.values() if t.part_of is not None]
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(found["new process to three answers"].samples[0])
    assert found["import samclip"].samples[0] < found["new process to first mask"].samples[0]
