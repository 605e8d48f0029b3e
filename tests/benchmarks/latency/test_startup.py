from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from timed_fakes import contender

from samclip.benchmarks.latency import startup
from samclip.benchmarks.latency.startup import ALL_ANSWERS, FIRST_MASK, measure_processes
from samclip.errors import EngineRunError
from samclip.progress import SILENT


def answers_with(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str = "") -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_steps_of_new_processes_add_up(monkeypatch: pytest.MonkeyPatch, photo_path: Path) -> None:
    answers_with(monkeypatch, 0, '{"start Python": 0.5, "segment a point": 0.25, "more": 1.0}')
    timings = measure_processes([contender()], 2, [photo_path], SILENT)
    found = {timing.name: timing for timing in timings}
    assert found[FIRST_MASK].samples == (0.75, 0.75)
    assert found[ALL_ANSWERS].samples == (1.75, 1.75)
    assert found["more"].part_of == ALL_ANSWERS
    assert {timing.state for timing in timings} == {"cold"}


def test_a_process_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, photo_path: Path
) -> None:
    answers_with(monkeypatch, 1, "", "Traceback\nBundleError: no bundle\n")
    with pytest.raises(EngineRunError, match=r"failed \(1\): BundleError: no bundle"):
        measure_processes([contender()], 1, [photo_path], SILENT)


def test_a_real_process_is_timed_from_its_start(
    photo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake's bundle does not exist, which only a process that got that far can say.

    It leaves compiled modules for the next one, where the environment forbids that, too.
    """
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with pytest.raises(EngineRunError, match="BundleNotFoundError"):
        startup.run_process(contender(), photo_path, tmp_path)
    assert list(tmp_path.rglob("samclip/runtime/loading.*.pyc"))
