"""Whether a machine gains by BF16: asked of a child process, which may be slow, hang or die."""

from __future__ import annotations

from pathlib import Path

import pytest
from precision_stand_ins import start_of

from samclip.engines.base import Probe
from samclip.engines.found_here import FOLDER
from samclip.engines.openvino import precision_probe
from samclip.engines.openvino.precision_probe import probe_precision


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and OpenVINO as if it were installed."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(precision_probe, "find_library", lambda: Probe(True, "openvino 2026.4"))
    return tmp_path / FOLDER


def ask(monkeypatch: pytest.MonkeyPatch, child: str, seconds: float = 60.0) -> Probe:
    monkeypatch.setattr(precision_probe, "START", start_of(child))
    monkeypatch.setattr(precision_probe, "SECONDS", seconds)
    return probe_precision("bf16")


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


def test_an_answer_holds_for_one_processor_and_one_version(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert not probe_precision("bf16", ask=False).available  # nothing is tried
    assert not list(cache.iterdir())
    first = ask(monkeypatch, "fast")
    assert (first.available, first.detail[:20]) == (True, "bf16 is 2.00x as fas")
    assert probe_precision("bf16", ask=False).available
    for name, value in (
        ("find_library", lambda: Probe(True, "openvino 2027.0")),
        ("processor_features", lambda: "fpu"),
        ("processor_name", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(precision_probe, name, value)
            assert not ask(monkeypatch, "slow").available
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not ask(monkeypatch, "slow").available
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert ask(monkeypatch, "slow") == first


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
    monkeypatch.setattr(precision_probe, "find_library", lambda: absent)
    assert ask(monkeypatch, "fast") == absent
