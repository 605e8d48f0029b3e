"""Processes with a model that fork, spawn or are interrupted: answers or one typed error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exit_process import CASES
from figures import Figures

HERE = Path(__file__).parent
SECONDS = 7200.0  # of a hundred rounds, on a busy machine
ROUNDS = [3, pytest.param(100, marks=pytest.mark.slow)]
Forked = Callable[[str, int], dict[str, Any]]
QUICK = ("daemons", "generators", "late_thread", "idle_child")  # of the ends of a process
FORKED = {"onnxruntime": "answer", "openvino": "BackendUnavailableError"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def run(script: str, *arguments: object, environment: dict[str, str]) -> dict[str, Any]:
    """Run a script of this folder to its end; a crash or a hang fails the test."""
    command = [sys.executable, HERE / script, *map(str, arguments)]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Fatal" not in result.stderr
    assert "not kept on disk" not in result.stderr  # which a cache says that a fork left locked
    ends: dict[str, Any] = json.loads(result.stdout)
    return ends


@pytest.fixture
def forked(coloured_bundle: Path, backend: str, environment: dict[str, str]) -> Forked:
    """A function that makes children in a given way and number, and counts their ends."""

    def ends(how: str, rounds: int) -> dict[str, Any]:
        return run(
            "fork_process.py", coloured_bundle, backend, how, rounds, environment=environment
        )

    return ends


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fork_before_loading(forked: Forked, rounds: int, figures: Figures) -> None:
    assert forked("before", rounds) == {"answer": rounds}
    figures.add("fork before a model is loaded", count=rounds, found="all answer")


@pytest.mark.parametrize("rounds", ROUNDS)
def test_fork_while_threads_use_a_model(
    forked: Forked, backend: str, rounds: int, figures: Figures
) -> None:
    """The parent's model and scenes refuse each use in the child; a new model may answer."""
    assert forked("after", rounds) == {FORKED[backend]: rounds, "parent works on": 1}
    found = f"{backend}: EngineRunError from the parent's model; a new one: {FORKED[backend]}"
    figures.add("fork while 2 threads use a model", count=rounds, found=found)


@pytest.mark.slow
def test_fork_while_threads_load_models(forked: Forked, backend: str, figures: Figures) -> None:
    assert forked("during", 100) == {FORKED[backend]: 100}
    found = f"{backend}: {FORKED[backend]} in the child"
    figures.add("fork while 2 threads load models", count=100, found=found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing(forked: Forked, method: str, figures: Figures) -> None:
    assert forked(method, 100) == {"answer": 100}
    figures.add(f"loads in processes of {method}", count=100, found="all answer")


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_ctrl_c_during_long_work(
    coloured_bundle: Path,
    backend: str,
    rounds: int,
    environment: dict[str, str],
    figures: Figures,
) -> None:
    """In series, `everything` and new names; pressed once, and held down."""
    ends = run("interrupt_process.py", coloured_bundle, backend, rounds, environment=environment)
    assert ends == {"interrupted": rounds, "threads left": 0, "right afterwards": rounds}
    figures.add(
        "Ctrl-C during long work", count=rounds, found="no thread left; right answers afterwards"
    )


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_the_interpreter_ends(
    coloured_bundle: Path, backend: str, case: str, environment: dict[str, str], figures: Figures
) -> None:
    """With models open, threads in calls, series half read, and in children that do nothing."""
    command = [sys.executable, HERE / "exit_process.py", coloured_bundle, backend, case]
    # Before a fork OpenBLAS joins its threads, and waits without end for one that got work from
    # another thread in that moment; a product on one thread needs none of them.
    single = {**environment, "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, env=single, capture_output=True, text=True, timeout=600, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "END\n", "")
    figures.add("ends of a process with a model", count=1, found="status 0, nothing on stderr")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process(
    coloured_bundle: Path, number: signal.Signals, environment: dict[str, str]
) -> None:
    """No handler catches it: the process ends, however many threads are at work."""
    command = [sys.executable, HERE / "interrupt_process.py", coloured_bundle, "onnxruntime", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at work\n"
            process.send_signal(number)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == -number
    assert "Fatal" not in errors
