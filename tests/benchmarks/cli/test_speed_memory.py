"""`samclip-bench memory` and `amortised`: what the commands print and write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from timed_fakes import timed_model

from samclip.benchmarks.memory import stages
from samclip.benchmarks.memory.stages import STAGES, TOKENS, ProcessMemory
from samclip.benchmarks.report import read_report

Bench = Callable[..., Any]
MIB = 2**20


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}\n")
    peaks = iter(range(100, 1000, 10))
    monkeypatch.setattr(
        "samclip.benchmarks.cli.session.open_variant", lambda *_: timed_model(path=tmp_path)
    )
    monkeypatch.setattr(
        stages, "run_child", lambda *_: ProcessMemory(next(peaks) * MIB, None, "no NVIDIA GPU here")
    )
    monkeypatch.setattr(stages, "bytes_read", lambda *_: 5 * MIB)


def test_memory_of_every_stage_is_shown_and_written(
    bench: Bench, fakes: None, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    result = bench("memory", "x", "--repeats", "1", "--json", file)
    assert result.exit_code == 0, result.stderr
    assert "no NVIDIA GPU here" in result.stdout
    assert "100.0" in result.stdout
    assert "+10.0" in result.stdout
    report = read_report(file)
    assert report.benchmark == "memory"
    own = [stage.name for stage in STAGES if not stage.names_by or TOKENS in stage.names_by]
    assert [use.stage for use in report.memory] == own
    assert report.memory[1].disk == 5 * MIB
    assert {row.unit for row in report.rows} == {"bytes"}
    assert report.settings[0].backend == "fake"


def test_memory_of_shapes_takes_a_bundle_of_several(bench: Bench, fakes: None) -> None:
    for given, reason in (
        (("--shapes",), "one shape of input"),
        (("--max-shapes", "2"), "Give both"),
        (("--shapes", "--everything"), "Leave out --shapes"),
    ):
        result = bench("memory", "x", *given)
        assert result.exit_code != 0
        assert reason in " ".join(result.stderr.split())


@pytest.mark.slow
def test_amortised_of_the_shipped_bundle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from samclip.benchmarks.amortised.clip_vision import CONFIGS, ClipVisionConfig

    small = ClipVisionConfig(width=64, layers=2, heads=4, patch=16, dim=32)
    monkeypatch.setitem(CONFIGS, "vit-b-16", small)
    file = tmp_path / "report.json"
    options = ("--repeats", "2", "--warm-up", "0", "--limit", "1", "--json", file)
    result = bench("amortised", *options)
    assert result.exit_code == 0, result.stderr
    report = read_report(file)
    found = {(row.model, row.measure, row.subset): row.value for row in report.rows}
    merged = found["merged", "vision parameters", "all"]
    apart = found["SAM + CLIP at 224 px", "vision parameters", "all"]
    assert apart == found["SAM + dense CLIP", "vision parameters", "all"]
    assert merged is not None
    assert apart is not None
    assert len(report.subjects) == 4
    assert found["SAM + dense CLIP / merged", "seconds", "three tasks, 100 prompts"]
