"""Fuzzing with atheris, where it is installed; `$SAMCLIP_FUZZ_SEED` and `_RUNS` choose others.

A failure names the file that shows the finding, and the command that repeats it. All targets take
more than an hour, so each has its own row of figures: `-k NAME` writes one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from figures import Figures
from fuzz_targets import TARGETS

FUZZER = Path(__file__).with_name("native_fuzzer.py")
SEED = int(os.environ.get("SAMCLIP_FUZZ_SEED", "1"))
RUNS = int(os.environ.get("SAMCLIP_FUZZ_RUNS", "20000"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_typed_errors(name: str, tmp_path: Path, figures: Figures) -> None:
    pytest.importorskip("atheris")
    (tmp_path / "corpus").mkdir()
    command = [sys.executable, str(FUZZER), name, str(tmp_path / "corpus")]
    options = [f"-runs={RUNS}", f"-seed={SEED}", "-max_total_time=300", "-timeout=60"]
    done = subprocess.run(
        [*command, *options, "-rss_limit_mb=4096", "-print_final_stats=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    found = [path for path in tmp_path.iterdir() if path.is_file()]
    replay = "".join(f"\nagain: {' '.join(command[:3])} {path}" for path in found)
    assert done.returncode == 0, f"seed {SEED}{replay}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert not found, replay
    runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    assert runs is not None, done.stderr[-3000:]
    fault = f"fuzzing with atheris: {name.replace('_', ' ')}"
    figures.add(fault, count=int(runs[1]), found="answers and typed errors alone")
