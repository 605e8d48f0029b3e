"""`python -m tools.peers`: what it prints and writes; all contenders are fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_peers import BROKEN_LOAD, SOUND, TASKS, fake_contender
from typer.testing import CliRunner

from samclip.benchmarks.html.named_reports import NamedReports
from samclip.benchmarks.html.page import render
from samclip.benchmarks.report import read_report
from tools.peers import __main__ as command


def run_peers(*arguments: object) -> Any:
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def test_ratios_peaks_and_reasons_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text("{}\n")
    codes = {"torch-eager": SOUND.format(delay=0.03, more="pass"), "naive-openvino": BROKEN_LOAD}
    monkeypatch.setattr("tools.peers.turns.SETTLE", 0.0)
    monkeypatch.setattr(
        command,
        "bundle_contenders",
        lambda *_: [
            fake_contender(tmp_path, "ours", SOUND.format(delay=0.01, more=TASKS), tmp_path)
        ],
    )
    monkeypatch.setattr(
        command,
        "peer_contender",
        lambda peer, plan: fake_contender(tmp_path, peer.name, codes[peer.name]),
    )
    only = [word for name in codes for word in ("--only", name)]
    file = tmp_path / "report.json"
    result = run_peers(*only, "--repeats", "2", "--json", file, "--environments", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "MemoryError: no room for it" in result.stdout
    assert "torch-eager / ours" in result.stdout
    report = read_report(file)
    assert "no room for it" in render(NamedReports.read([file]))
    assert [(found.name, found.reason is None) for found in report.peers] == [
        *(("ours", True), ("torch-eager", True), ("naive-openvino", False)),
    ]
    assert [subject.role for subject in report.subjects] == ["measured", "peer", "peer"]
    assert {use.model for use in report.memory} == {"ours", "torch-eager"}
    ratio = next(
        row
        for row in report.rows
        if row.measure.startswith("stage: encoder") and row.unit == "ratio"
    )
    assert ratio.value == pytest.approx(3)


def test_an_unknown_peer_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    result = run_peers("--only", "tensorflow", "--environments", tmp_path / "none")
    assert result.exit_code == 2
    assert "naive-onnxruntime" in result.stderr
    assert not (tmp_path / "none").exists()
