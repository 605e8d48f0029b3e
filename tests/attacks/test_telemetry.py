"""What an ordinary run looks up on the network and writes into the home folder: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from figures import Figures

PROGRAM = """
import sys, time
import numpy as np
import samclip
with samclip.load(sys.argv[1], sys.argv[2], threads=1) as model:
    with model.encode(np.zeros((60, 80, 3), np.uint8)) as scene:
        scene.classify(["red", "green"])
    time.sleep(float(sys.argv[3]))
"""
VARIABLES = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL")  # each switches some off
SOCKETS = ("AF_INET", "AF_NETLINK")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.mark.parametrize("seconds", [0, pytest.param(75, marks=pytest.mark.slow)])
def test_nothing_is_sent_and_no_id_is_written(
    seconds: int, backend: str, coloured_bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    """Libraries send what they collected after up to a minute, or when the process ends."""
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = {**kept, "HOME": str(home), "SAMCLIP_CACHE_DIR": str(tmp_path / "cache")}
    environment = {name: v for name, v in environment.items() if not name.startswith("XDG_")}
    program = [sys.executable, "-c", PROGRAM, str(coloured_bundle), backend, str(seconds)]
    traced = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace), *program]
    probe = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False)
    if probe.returncode:
        pytest.skip("this system allows no strace")
    ended = subprocess.run(traced, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    calls = [line for line in trace.read_text().splitlines() if any(s in line for s in SOCKETS)]
    assert not calls
    assert [path for path in home.rglob("*") if path.is_file()] == []
    figures.add("network and home folder of a run", count=1, found="no socket, no file")
