"""A merging run that is killed again and again: it ends as an undisturbed one, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from figures import Figures
from writer_runs import SEED, seed

SCRIPT = Path(__file__).with_name("merge_process.py")


@pytest.mark.slow
def test_a_hundred_kills_of_a_merging_run(tmp_path: Path, figures: Figures) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "100", str(seed())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{SEED}={seed()}\n{done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    figures.add(
        "SIGKILL of a merging run, which goes on",
        count=found["kills"],
        found="weights, log and evaluations as without, to the bit; nothing left over",
    )
