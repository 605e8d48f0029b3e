"""`samclip deploy triton`: what it writes and prints, and how it differs from `samclip deploy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fakes import Run
from coloured_bundle import write_coloured_bundle
from tiny_bundle import write_tiny_bundle

import samclip
from samclip.triton.repository import verify_repository


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No plans but those of the test."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))


def test_the_command_writes_a_repository(run: Run, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", name="street")
    result = run("deploy", "triton", bundle, "--to", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    assert "serves street by onnxruntime on the cpu" in result.stdout
    again = run("deploy", "triton", bundle, "--to", tmp_path / "r")
    assert (again.exit_code, "--overwrite" in again.stderr) == (1, True)
    options = ("--overwrite", "--json", "--device", "cpu", "--name", "front", "--fronts", "2")
    record = json.loads(run("deploy", "triton", bundle, "--to", tmp_path / "r", *options).stdout)
    assert (record["front"], record["device"]) == ("front", "cpu")
    assert record["models"][0] == "front"
    assert verify_repository(tmp_path / "r").models == tuple(record["models"])
    naming = write_coloured_bundle(tmp_path / "naming")
    with samclip.load(naming, "onnxruntime") as model:
        saved = model.vocabulary(["a cup"]).save(tmp_path / "names.safetensors")
    named = ("--to", tmp_path / "n", "--vocabulary", str(saved))
    assert run("deploy", "triton", naming, *named).exit_code == 0
    (copied,) = (tmp_path / "n").glob("*/1/vocabulary.safetensors")
    assert copied.read_bytes() == saved.read_bytes()
    headless = run("deploy", "triton", bundle, "--to", tmp_path / "q", *named[2:])
    assert (headless.exit_code, "has no CLIP head" in headless.stderr) == (1, True)
    wrong = run("deploy", "triton", bundle, "--to", tmp_path / "q", "--backend", "tensorrt")
    assert (wrong.exit_code, "samclip engine build" in wrong.stderr) == (1, True)
    assert not (tmp_path / "q").exists()
