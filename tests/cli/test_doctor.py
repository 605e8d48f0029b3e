"""`samclip doctor`: its report on any machine, and on a Jetson."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import onnxruntime
import pytest
from cli_fakes import Run
from machine_trees import ORIN_NANO, ORIN_NANO_LINKS, write_tree
from tiny_bundle import write_tiny_bundle

from samclip import __version__
from samclip.cli import machine_report
from samclip.engines.base import Probe
from samclip.engines.machine.device import PythonHere
from samclip.engines.machine.jetson import find_jetson
from samclip.engines.onnxruntime import library as ort_library
from samclip.engines.openvino import backend as ov_backend
from samclip.runtime import assets
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.measured_choice import (
    ChoiceKey,
    MeasuredChoice,
    Speed,
    keep_choice,
    try_choices,
)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "ASSETS", tmp_path / "package")
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "bundles"))
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(autouse=True)
def with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report OpenVINO as installed, on every machine; some tests change this."""
    monkeypatch.setattr(ov_backend, "find_library", lambda: Probe(True, "openvino 2026.4.1, CPU"))


def test_report_has_every_part(run: Run, places: Path) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["samclip"] == __version__
    assert report["device"]["logical_cores"] >= 1
    assert {"onnxruntime", "cuda"} <= {backend["name"] for backend in report["backends"]}
    cache = report["cache"]
    assert cache.pop("free") > 0
    assert cache == {"path": str(places / "cache"), "writable": True, "remedy": ""}
    assert report["jetson"] is None or report["jetson"]["memory"]["total"] > 0
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
    monkeypatch.setattr(machine_report, "probes", lambda: {"cuda": probe})
    text = " ".join(run("doctor").stdout.split())
    assert "cuda no no [GPU] here -> install a driver" in text


def test_unusable_cache_is_reported_with_exit_code_0(
    run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "file").touch()
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(places / "file" / "cache"))
    result = run("doctor", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["cache"]["writable"] is False
    assert "Set SAMCLIP_CACHE_DIR" in report["cache"]["remedy"]
    (finding,) = [found for found in report["findings"] if found["about"] == "cache"]
    assert (finding["level"], finding["remedy"]) == ("problem", report["cache"]["remedy"])


def test_a_cache_folder_that_may_not_be_looked_into(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", "/" + "x" * 300)  # longer than any file name
    assert run("doctor").exit_code == 0


def test_too_little_disk_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_report, "free_space", lambda folder: 10**8)
    text = " ".join(run("doctor").stdout.split())
    assert "disk 0.1 GB are free" in text
    assert "-> free at least 2 GB, or set SAMCLIP_CACHE_DIR" in text


@pytest.mark.parametrize(("machine", "count"), [("x86_64", 1), ("aarch64", 0)])
def test_openvino_is_recommended_where_it_is_faster(
    run: Run, monkeypatch: pytest.MonkeyPatch, machine: str, count: int
) -> None:
    monkeypatch.setattr(ov_backend, "find_library", lambda: Probe(False, "not there", "get it"))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [(f["about"], f["level"], f["remedy"]) for f in findings] == [
        ("openvino", "advice", "get it")
    ] * count


@pytest.mark.parametrize(
    ("machine", "jetson", "remedy"),
    [
        ("x86_64", None, "pip install --force-reinstall --no-deps onnxruntime-gpu"),
        ("aarch64", None, "pip install --force-reinstall --no-deps onnxruntime-gpu, which PyPI"),
        ("aarch64", "Orin", "PyPI's onnxruntime-gpu has no code for a Jetson's GPU: get NVIDIA's"),
    ],
)
def test_both_onnxruntime_packages_are_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, machine: str, jetson: str | None, remedy: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(ort_library, "find_jetson", lambda: jetson)
    both = {"onnxruntime": "1.23.2", "onnxruntime-gpu": "1.23.0"}
    monkeypatch.setattr(ort_library, "installed_packages", lambda: both)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    (finding,) = [found for found in findings if found["about"] == "onnxruntime"]
    assert "onnxruntime 1.23.2 and onnxruntime-gpu 1.23.0 are both installed" in finding["detail"]
    assert finding["remedy"].startswith(remedy)


@pytest.fixture
def orin_nano(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new Orin Nano, and a Python that does not see JetPack's TensorRT."""
    files = write_tree(tmp_path_factory.mktemp("machine"), ORIN_NANO, ORIN_NANO_LINKS)
    python = PythonHere("3.10", "/opt/me/env", True, False, None)
    monkeypatch.setattr(machine_report, "find_jetson", lambda: find_jetson(files))
    monkeypatch.setattr(machine_report, "describe_python", lambda: python)


@pytest.mark.usefixtures("orin_nano")
def test_a_jetson_for_machines(run: Run) -> None:
    report = json.loads(run("doctor", "--json").stdout)
    jetson = report["jetson"]
    assert (jetson["l4t"], jetson["jetpack"]) == ("36.4.3", "6.2")
    assert jetson["tensorrt"] == {
        "library": "10.3.0.30",
        "python_module": "10.3.0.30",
        "importable": None,
    }
    assert jetson["power"] == {
        "mode": {"number": 0, "name": "15W"},
        "fastest": {"number": 2, "name": "MAXN_SUPER"},
        "clocks_pinned": False,
    }
    about = [finding["about"] for finding in report["findings"]]
    assert about[:6] == ["tensorrt", "jetpack", "power", "clocks", "swap", "desktop"]


@pytest.mark.usefixtures("orin_nano")
def test_a_jetson_for_people(run: Run) -> None:
    text = run("doctor").stdout
    assert "Developer Kit Super, JetPack 6.2 (L4T 36.4.3)\n" in text
    assert "tensorrt: 10.3.0.30; not seen by this Python\n" in text
    assert "power mode: 15W (0); clocks: following the load\n" in text
    assert "memory, shared with the GPU: 5.0 GB free; swap: 4.0 GB (4.0 GB of it zram)" in text
    words = " ".join(text.split())
    assert "set include-system-site-packages = true in /opt/me/env/pyvenv.cfg" in words
    assert "sudo nvpmodel -m 2 (MAXN_SUPER)" in words


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


def test_the_default_bundle_and_the_origin_of_bundles_are_shown(run: Run, places: Path) -> None:
    path = write_tiny_bundle(places / "package" / "bundles" / "samclip-tiny")
    write_tiny_bundle(places / "bundles" / "mine")
    report = json.loads(run("doctor", "--json").stdout)
    default = report["default_bundle"]
    assert {**default, "auto": None} == {
        "name": "samclip-tiny",
        "path": str(path),
        "auto": None,
        "remedy": "",
    }
    assert default["auto"]["backend"] == "onnxruntime"
    passed = {one["name"]: one["remedy"] for one in default["auto"]["passed_over"]}
    assert list(passed) == ["tensorrt", "tensorrt-rtx", "cuda"]
    assert all(passed.values())
    packaged = {bundle["name"]: bundle["packaged"] for bundle in report["bundles"]}
    assert packaged == {"mine": False, "samclip-tiny": True}
    assert f"default bundle: {path}" in run("doctor").stdout


def test_the_origin_of_the_choice_of_a_backend_is_shown(run: Run, places: Path) -> None:
    path = write_tiny_bundle(places / "package" / "bundles" / "samclip-tiny")
    by_rule = "backend auto: onnxruntime, by rule; `samclip-bench choose` measures it"
    assert by_rule in run("doctor").stdout
    bundle = Bundle.open(path)
    speed = Speed(backend="onnxruntime", precision="fp32", median=12.3, samples=(12.3,))
    try_choices()
    keep_choice(MeasuredChoice(key=ChoiceKey.here(bundle), date="2026-01-01", speeds=(speed,)))
    measured = "backend auto: onnxruntime, in fp32, as measured here: 12 ms an image"
    assert measured in run("doctor").stdout
    auto = json.loads(run("info", path, "--json").stdout)["auto"]
    assert (auto["precision"], auto["measured"]) == ("fp32", 12.3)
    assert auto["engine_precision"] == "fp32"


def test_without_a_default_bundle_the_remedy_is_shown(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)["default_bundle"]
    assert found["path"] is None
    assert "samclip-export --checkpoint" in found["remedy"]
    assert "was built without it" in run("doctor").stdout
