"""`samclip-bench profile`: what it prints and writes, and what it refuses before the long work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_profiles import made_profile

from samclip.benchmarks.profiling.profiled import ProfiledBackend
from samclip.benchmarks.report import read_report

MODULE = "samclip.benchmarks.cli.profile"


@pytest.fixture
def profiled(monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]) -> list[Any]:
    """Profile made-up graphs in place of real ones; lists how often and by which statistic."""
    asked: list[Any] = []

    def profile_graphs(models: Any, photo: Path, *given: Any) -> tuple[Any, ...]:
        asked.append(given[:2])
        return made_profile(models[0].name), made_profile(models[0].name, "mask_decoder")

    monkeypatch.setattr(f"{MODULE}.profile_graphs", profile_graphs)
    monkeypatch.setattr(ProfiledBackend, "__post_init__", lambda _: None)
    return asked


def test_tables_page_stacks_and_report_are_of_one_run(
    profiled: list[Any], bench: Callable[..., Any], tmp_path: Path
) -> None:
    page, stacks, record = (tmp_path / name for name in ("p.html", "p.folded", "p.json"))
    files = ("--html", page, "--folded", stacks, "--json", record)
    result = bench("profile", "a", "--repeats", "3", "--best", "--nodes", "2", *files)
    assert result.exit_code == 0, result.stderr
    assert profiled == [(3, "minimum")]
    for text in ("Gemm", "between nodes", "whole run", "the slowest nodes", "blocks.0.attn.qkv"):
        assert text in result.stdout
    report = read_report(record)
    assert {row.measure for row in report.rows} >= {"operator Gemm", "between nodes", "whole run"}
    assert len(report.profiles) == 2
    model = report.profiles[0].model
    assert f"samclip;{model};encoder;blocks.0;attn;qkv;Gemm;qkv 500\n" in stacks.read_text()
    text = page.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert 'aria-label="Flame graph of encoder' in text
    # The page of the same report is the same but for the name that it gives the report.
    again = tmp_path / "again.html"
    assert bench("report", record, "-o", again).exit_code == 0
    flame = text[text.index('<h2 id="profile">') : text.index("<details><summary>How these times")]
    assert flame in again.read_text("utf-8")
    # What it wrote may be written again.
    assert bench("profile", "a", *files).exit_code == 0


def test_profiles_are_compared_by_operator(
    profiled: list[Any], bench: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("before", "after"):
        assert bench("profile", "a", "--json", tmp_path / f"{name}.json").exit_code == 0
    result = bench("compare", tmp_path / "before.json", tmp_path / "after.json")
    assert result.exit_code == 0, result.stderr
    assert "operator Gemm" in result.stdout
    assert "1.00x as fast" in result.stdout


@pytest.mark.parametrize("option", ["--html", "--folded"])
def test_a_file_of_something_else_is_kept(
    option: str, loads: list[dict[str, Any]], bench: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("my notes")
    result = bench("profile", "a", option, tmp_path / "mine")
    assert result.exit_code == 2
    assert "samclip-bench did not write it" in " ".join(result.stderr.split())
    assert (tmp_path / "mine").read_text() == "my notes"
    assert loads == []


def test_a_backend_that_cannot_is_refused_before_anything_is_loaded(
    loads: list[dict[str, Any]], bench: Callable[..., Any], tmp_path: Path
) -> None:
    result = bench("profile", "a", "--html", tmp_path / "p.html")
    assert result.exit_code == 1
    assert "does not time the nodes" in " ".join(result.stderr.split())
    assert not (tmp_path / "p.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_packaged_bundle(backend: str, bench: Callable[..., Any], tmp_path: Path) -> None:
    record, stacks = tmp_path / "p.json", tmp_path / "p.folded"
    given = ("--backend", backend, "--repeats", "1", "--json", record, "--folded", stacks)
    result = bench("profile", *given)
    assert result.exit_code == 0, result.stderr
    found = {one["graph"]: one for one in json.loads(record.read_bytes())["profiles"]}
    assert set(found) == {"encoder", "mask_decoder", "clip_head", "text_encoder"}
    total = 0.0
    for graph in found.values():
        taken = sum(node["samples"][0] for node in graph["nodes"])
        assert 0.5 * graph["samples"][0] <= taken
        assert taken <= graph["samples"][0] + 2e-6 * len(graph["nodes"])  # means of two runs
        total += taken + graph["between"][0]
    assert 50e9 < found["encoder"]["macs"] < 60e9
    # Most of the encoder's time has a module: what has none changes the layout of tensors.
    nodes = found["encoder"]["nodes"]
    placed = sum(node["samples"][0] for node in nodes if node["scope"])
    least = 0.8 if backend == "onnxruntime" else 0.5  # OpenVINO reorders more, and names less
    assert placed > least * sum(node["samples"][0] for node in nodes)
    stacked = [int(line.rpartition(" ")[2]) for line in stacks.read_text().splitlines()]
    assert sum(stacked) * 1e-6 == pytest.approx(total, rel=1e-3)
