"""The table of a new process's steps: what is added up, and one real process."""

from __future__ import annotations

from pathlib import Path

from samclip.benchmarks.latency.first_answer import CLASSIFY, COARSE, ENCODE, LOAD, POINT
from tools.quiet_figures import ROOT
from tools.start_up import FIRST, KNOWN, rows, run

STEPS = {"start Python": 0.01, LOAD: 0.2, ENCODE: 0.3, POINT: 0.1, CLASSIFY: 0.4, COARSE: 0.02}


def test_the_ways_to_answers_are_sums_of_steps() -> None:
    slower = {step: 2 * seconds for step, seconds in STEPS.items()}
    once = {KNOWN: 0.05, FIRST: 0.25}
    cells = rows([{**STEPS, **once}, {**slower, **once}, {**STEPS, **once}])
    assert cells["a new process to its first mask"] == "610 (610 - 1,220)"
    assert cells["to three answers"] == "1,030 (1,030 - 2,060)"
    assert cells["to three answers, of COCO's 80 names"] == "680 (680 - 1,310)"
    assert cells[FIRST] == "250 (250 - 250)"


def test_a_process_of_this_tree_gives_every_step(tmp_path: Path) -> None:
    steps = run(ROOT, ("person", "car"), tmp_path)
    assert list(steps)[2:] == [LOAD, ENCODE, POINT, CLASSIFY, COARSE]
    assert all(seconds > 0 for seconds in steps.values())
    assert (tmp_path / "compiled").is_dir()
