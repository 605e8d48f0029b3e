"""The script for machines with a GPU: it runs, keeps what it found, and fails when it must."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_bundle import write_tiny_bundle

from samclip.engines.base import Probe
from samclip.runtime.bundles.bundle import Bundle

FOLDER = Path(__file__).parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("check_gpu")


def test_dry_run(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gpu.json"
    parts = ["libraries", "tensorrt"]
    assert script.main(["--dry-run", "--output", str(output), "--parts", *parts]) == 0
    report = json.loads(output.read_text())
    assert [part["name"] for part in report["parts"]] == parts
    assert [part["state"] for part in report["parts"]] == ["passed", "skipped"]
    printed = capsys.readouterr().out
    assert "nothing failed" in printed
    assert "says nothing about a GPU" in printed


@pytest.mark.slow
def test_dry_run_of_every_part(script: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    code = script.main(["--dry-run", "--output", str(output)])
    states = {part["name"]: part["state"] for part in json.loads(output.read_text())["parts"]}
    assert states == {
        "libraries": "passed",
        "torch-half": "passed",
        "encoders": "passed",
        "ort-cuda": "passed",
        "tensorrt": "skipped",
        "tensorrt-rtx": "skipped",
        "gates-cuda": "passed",
        "gates-tensorrt": "skipped",
        "gates-tensorrt-rtx": "skipped",
    }
    assert code == 0


def test_precisions_that_a_backend_has_are_judged(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.PARTS[-3:] == ("gates-cuda", "gates-tensorrt", "gates-tensorrt-rtx")
    gates: Any = importlib.import_module("gpu_gates")
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "bundle"))
    assert gates.reduced(bundle, "tensorrt") == ("fp16",)
    assert gates.reduced(bundle, "cuda") == ()
    monkeypatch.setattr(gates, "open_bundle", lambda _: bundle)
    options = script.parse(["--dry-run"])
    report: Any = importlib.import_module("gpu_report")
    with pytest.raises(report.Skip, match="needs a GPU"):
        next(gates.check_gates("tensorrt")(options))
    options.dry_run = False
    ready = SimpleNamespace(probe=lambda: Probe(True, "works"))
    monkeypatch.setattr(gates, "get_backend", lambda _: ready)
    with pytest.raises(report.Skip, match="nothing but FP32 for cuda"):
        next(gates.check_gates("cuda")(options))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_encoders_that_race_compute_the_same(script: ModuleType) -> None:
    encoders: Any = importlib.import_module("gpu_encoders")
    options = script.parse(["--dry-run"])
    pixels = torch.from_numpy(encoders.photos(options, 1))
    with torch.inference_mode():
        expected = encoders.reference(torch, options)(pixels)
        for make in (encoders.flexible, encoders.folded):
            found = make(torch, options)(pixels)[1]
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()  # 5e-7 found


@pytest.mark.parametrize("end", ["error", "crash", "hang", "limit"])
def test_a_part_that_fails_loses_nothing(
    script: ModuleType, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report: Any = importlib.import_module("gpu_report")
    part = report.PartResult("torch-half", rows=[report.Row("found before", 1.0)])

    def run(command: list[str], timeout: float, check: bool) -> Any:
        if end == "error":
            part.state, part.error = report.FAILED, "Traceback: it went wrong"
        if end == "limit":
            part.rows.append(report.Row("too low", 0.9, limit=0.99))
            part.settle()
        part.save(Path(command[-1]))
        if end == "hang":
            raise script.subprocess.TimeoutExpired(command, timeout)
        return script.subprocess.CompletedProcess(command, -11 if end == "crash" else 0)

    monkeypatch.setattr(script.subprocess, "run", run)
    output = tmp_path / "gpu.json"
    assert script.main(["--output", str(output), "--parts", "torch-half"]) == 1
    (found,) = json.loads(output.read_text())["parts"]
    assert found["state"] == "FAILED"
    assert found["rows"][0]["what"] == "found before"
    expected = {"error": "it went wrong", "crash": "code -11", "hang": "not done after"}
    assert expected.get(end, "") in found["error"]


def test_parts_are_imported_by_name(script: ModuleType) -> None:
    assert {script.part_function(name).__name__ for name in script.PARTS} == {
        "check",  # the gates of one backend
        "check_libraries",
        "check_torch_half",
        "check_encoders",
        "check_ort_cuda",
        "check_tensorrt",
        "check_tensorrt_rtx",
    }
    assert str(FOLDER) in sys.path
