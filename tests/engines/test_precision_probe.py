"""Whether a machine gains by BF16: asked of a child process, which may be slow, hang or die."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from precision_stand_ins import start_of

from samclip.engines import precision_probe
from samclip.engines.base import Probe
from samclip.engines.found_here import FOLDER
from samclip.engines.machine import device
from samclip.engines.onnxruntime.backend import CPU, CUDA
from samclip.engines.openvino import backend as openvino
from samclip.engines.precision_probe import probe_precision
from samclip.engines.registry import get_backend

FACTS = ("a processor", "a library 2026.4")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    return tmp_path / FOLDER


def ask(
    monkeypatch: pytest.MonkeyPatch,
    child: str,
    seconds: float = 60.0,
    facts: tuple[str, ...] = FACTS,
    backend: str = "openvino",
) -> Probe:
    monkeypatch.setattr(precision_probe, "START", start_of(child))
    monkeypatch.setattr(precision_probe, "SECONDS", seconds)
    return probe_precision(backend, "bf16", facts)


@pytest.mark.parametrize(
    ("child", "seconds", "reason"),
    [
        ("slow", 60.0, "bf16 is 0.03x as fast as FP32"),
        ("dies", 60.0, "computing in bf16 ended its process: signal SIGILL"),
        ("hangs", 1.0, "did not end within 1 s"),
        ("none", 60.0, "has no attribute 'none'"),
    ],
)
def test_a_processor_that_is_not_made_for_it_is_refused_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path, child: str, seconds: float, reason: str
) -> None:
    found = ask(monkeypatch, child, seconds)
    assert not found.available
    if child == "none":  # what it said went to stderr
        assert "ended its process: exit code 1" in found.detail
    else:
        assert reason in found.detail
    (kept,) = cache.iterdir()
    assert str(kept) in found.remedy
    assert ask(monkeypatch, "fast") == found  # the answer is kept
    kept.unlink()
    assert ask(monkeypatch, "fast").available


def test_an_answer_holds_for_one_backend_processor_and_version(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert not probe_precision("openvino", "bf16", FACTS, ask=False).available  # nothing is tried
    assert not list(cache.iterdir())
    first = ask(monkeypatch, "fast")
    assert (first.available, first.detail[:20]) == (True, "bf16 is 2.00x as fas")
    assert probe_precision("openvino", "bf16", FACTS, ask=False).available
    assert not ask(monkeypatch, "slow", facts=("a processor", "a library 2027.0")).available
    assert not ask(monkeypatch, "slow", backend="onnxruntime").available
    assert ask(monkeypatch, "slow") == first


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_an_answer_depends_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = get_backend(name)
    seen = {backend.precision_facts}
    for function, value in (("processor_features", "fpu"), ("processor_name", "another")):
        with monkeypatch.context() as patch:
            patch.setattr(device, function, lambda value=value: value)
            seen.add(backend.precision_facts)
    if name == "openvino":
        with monkeypatch.context() as patch:
            patch.setattr(openvino, "find_library", lambda: Probe(True, "openvino 2027.0"))
            seen.add(backend.precision_facts)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    else:
        monkeypatch.setattr("onnxruntime.__version__", "1.99")
    seen.add(backend.precision_facts)
    assert len(seen) == (5 if name == "openvino" else 4)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_child_times_real_layers(name: str) -> None:
    """This processor may gain or not: what is judged is that an answer with its gain is kept."""
    found = probe_precision(name, "bf16", FACTS)
    assert re.match(r"bf16 is \d+\.\d\dx as fast as FP32 in layers", found.detail)


def test_onnx_runtime_has_bf16_on_arm_processors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    if not device.computes_bf16_on_arm():
        for backend in (CPU, CUDA):
            found = backend.probe_precision("bf16")
            assert not found.available
            assert "on Arm processors" in found.detail
    for machine, features, expected in (
        ("aarch64", "fp asimd bf16", True),
        ("aarch64", "fp asimd", False),
        ("x86_64", "fpu avx512_bf16 bf16", False),
    ):
        device.computes_bf16_on_arm.cache_clear()
        monkeypatch.setattr(device.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(device, "processor_features", lambda features=features: features)
        assert device.computes_bf16_on_arm() == expected
    device.computes_bf16_on_arm.cache_clear()


def test_a_file_that_was_not_kept_here_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(monkeypatch, "fast")
    (kept,) = cache.iterdir()
    kept.chmod(0o666)
    assert not ask(monkeypatch, "slow").available
    assert "is ignored" in caplog.text
    kept.write_bytes(b"{}")
    assert ask(monkeypatch, "fast").available


def test_without_a_library_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Probe(False, "openvino is not installed", "install it")
    monkeypatch.setattr(openvino, "find_library", lambda: absent)
    assert openvino.OpenVinoBackend().probe_precision("bf16") == absent
