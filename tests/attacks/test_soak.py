"""Long use in little memory; for hours: `SAMCLIP_SOAK_CALLS=1000000 pytest -m slow -s` on this.

`SAMCLIP_SOAK_BUNDLE` names another bundle, as samclip-tiny; the table of memory is printed as it
comes with `-s`, and otherwise when a test fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from figures import Figures

HERE = Path(__file__).parent
FRAMES = int(os.environ.get("SAMCLIP_SOAK_FRAMES", "10000"))
CALLS = int(os.environ.get("SAMCLIP_SOAK_CALLS", "10000"))
WARM_UP = 4000  # until caches with a bound are full: OpenVINO keeps kernels of many shapes
BUNDLE = os.environ.get("SAMCLIP_SOAK_BUNDLE")
MOST_GROWTH = 20.0  # MB of 10^6 bytes after the warm-up
NAMES_BUDGET = 30.0  # MB for 10,000 names, in addition to 8 bytes for each number of their vectors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def run(script: str, *arguments: object, environment: dict[str, str]) -> dict[str, Any]:
    """Run a script of this folder, showing what it says; give its last line's JSON."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    lines = [""]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def test_a_short_soak(coloured_bundle: Path, backend: str, environment: dict[str, str]) -> None:
    ends = run("soak_process.py", coloured_bundle, backend, 100, 50, environment=environment)
    assert ends["calls"] == 100
    assert ends["most"] <= MOST_GROWTH


@pytest.mark.slow
def test_a_soak_of_ten_thousand_calls(
    request: pytest.FixtureRequest, backend: str, environment: dict[str, str], figures: Figures
) -> None:
    """Real weights; the sizes and numbers of photos, prompts and names keep changing."""
    bundle = BUNDLE or request.getfixturevalue("lite2_bundle")
    ends = run("soak_process.py", bundle, backend, CALLS, WARM_UP, environment=environment)
    found = f"{backend}: {ends['most']:.1f} MB more RSS than after the warm-up, at most"
    figures.add("soak by calls of all kinds", count=ends["calls"], found=found)
    assert ends["most"] <= MOST_GROWTH


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["followed", "found"])
def test_a_soak_of_ten_thousand_frames(
    lite2_bundle: Path, kind: str, environment: dict[str, str], figures: Figures
) -> None:
    """A video file, decoded and answered by real weights, its answers written as a video."""
    bundle = BUNDLE or lite2_bundle
    ends = run("watch_process.py", bundle, "onnxruntime", FRAMES, kind, environment=environment)
    found = f"{kind}: {ends['most']:.1f} MB more RSS than after 500 frames, at most"
    figures.add("soak by frames of a video", count=ends["calls"], found=found)
    assert ends["calls"] == FRAMES
    assert ends["most"] <= MOST_GROWTH


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_names(
    coloured_bundle: Path,
    backend: str,
    count: int,
    environment: dict[str, str],
    figures: Figures,
) -> None:
    """The vectors of names are small here; the memory is that of everything around them."""
    ends = run("names_process.py", coloured_bundle, backend, count, environment=environment)
    assert ends["names"] == count
    found = f"{backend}: {ends['all']:.0f} MB more RSS, classify and semantic included"
    figures.add("10,000 names at once", count=count, found=found)
    assert ends["all"] <= NAMES_BUDGET


@pytest.mark.parametrize("threads", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_too_little_memory(
    coloured_bundle: Path,
    backend: str,
    threads: int,
    environment: dict[str, str],
    figures: Figures,
) -> None:
    check_starved(coloured_bundle, backend, threads, environment, figures, "small graphs")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 1])
def test_too_little_memory_for_real_weights(
    lite2_bundle: Path,
    backend: str,
    threads: int,
    environment: dict[str, str],
    figures: Figures,
) -> None:
    check_starved(lite2_bundle, backend, threads, environment, figures, "real weights")


def check_starved(
    bundle: Path,
    backend: str,
    threads: int,
    environment: dict[str, str],
    figures: Figures,
    what: str,
) -> None:
    """Check for a typed error or an answer, then right answers when there is memory again."""
    ends = run("starved_process.py", bundle, backend, threads, environment=environment)
    right, short = ends.pop("right afterwards"), ends.pop("DeviceMemoryError")
    assert set(ends) <= {"answer", "EngineRunError", "BackendUnavailableError"}
    assert short >= 3
    assert short + sum(ends.values()) == right
    others = "".join(f", {number} {end}" for end, number in sorted(ends.items()))
    found = f"{backend}, {threads} threads: {short} DeviceMemoryError{others}; right afterwards"
    figures.add(f"too little memory, {what}", count=right, found=found)
