"""`samclip doctor`: a report, on whatever machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_fakes import Run
from tiny_bundle import write_tiny_bundle

from samclip import __version__
from samclip.engines.base import Probe
from samclip.runtime import assets
from samclip.runtime.cli import checkup


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "package")
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "bundles"))
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_report_has_every_part(run: Run, places: Path) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["samclip"] == __version__
    assert report["device"]["logical_cores"] >= 1
    assert {"onnxruntime", "cuda"} <= {backend["name"] for backend in report["backends"]}
    assert report["cache"] == {"path": str(places / "cache"), "writable": True, "remedy": ""}
    assert report["bundle_home"] == str(places / "bundles")
    assert report["bundles"] == []


def test_onnxruntime_works_wherever_the_tests_run(run: Run) -> None:
    report = json.loads(run("doctor", "--json").stdout)
    (cpu,) = [backend for backend in report["backends"] if backend["name"] == "onnxruntime"]
    assert cpu["available"]
    assert cpu["remedy"] == ""


def test_doctor_changes_nothing(run: Run, places: Path) -> None:
    assert run("doctor").exit_code == 0
    assert list(places.iterdir()) == []


def test_what_does_not_work_comes_with_a_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(available=False, detail="no [GPU] here", remedy="install a driver")
    monkeypatch.setattr(checkup, "probes", lambda: {"cuda": probe})
    text = " ".join(run("doctor").stdout.split())
    assert "cuda no no [GPU] here -> install a driver" in text


def test_unusable_cache_is_told_and_is_no_failure(
    run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "file").touch()
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(places / "file" / "cache"))
    result = run("doctor", "--json")
    assert result.exit_code == 0
    cache = json.loads(result.stdout)["cache"]
    assert cache["writable"] is False
    assert "Set SAMCLIP_CACHE_DIR" in cache["remedy"]


def test_broken_bundle_is_listed_with_its_fault(run: Run, places: Path) -> None:
    folder = places / "bundles" / "broken"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    (found,) = json.loads(run("doctor", "--json").stdout)["bundles"]
    assert found["name"] == "broken"
    assert found["error"]
    assert "cannot be used" in run("doctor").stdout


def test_sound_bundle_is_listed(run: Run, places: Path, mobile_sam_bundle: Path) -> None:
    (places / "bundles").mkdir()
    (places / "bundles" / "tiny").symlink_to(mobile_sam_bundle)
    (found,) = json.loads(run("doctor", "--json").stdout)["bundles"]
    assert (found["name"], found["error"]) == ("tiny", None)
    assert found["trained_head"] is False
    assert "UNTRAINED" in run("doctor").stdout


def test_the_default_bundle_is_told_and_where_bundles_come_from(run: Run, places: Path) -> None:
    path = write_tiny_bundle(places / "package" / "bundles" / "samclip-tiny")
    write_tiny_bundle(places / "bundles" / "mine")
    report = json.loads(run("doctor", "--json").stdout)
    assert report["default_bundle"] == {"name": "samclip-tiny", "path": str(path), "remedy": ""}
    packaged = {bundle["name"]: bundle["packaged"] for bundle in report["bundles"]}
    assert packaged == {"mine": False, "samclip-tiny": True}
    assert f"default bundle: {path}" in run("doctor").stdout


def test_without_a_default_bundle_it_says_how_to_make_one(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)["default_bundle"]
    assert found["path"] is None
    assert "samclip-export --checkpoint" in found["remedy"]
    assert "was built without it" in run("doctor").stdout
