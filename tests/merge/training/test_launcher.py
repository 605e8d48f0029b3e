"""Two processes give the result of one, and end together."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tree import SUPPORT

from samclip.merge.training import launcher
from samclip.merge.training.evaluation import read_records
from samclip.merge.training.launcher import is_launched, launch
from samclip.merge.training.step_log import StepLog

SCRIPT = SUPPORT / "tiny_run.py"


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def test_processes_know_of_each_other(tmp_path: Path) -> None:
    tell = script(
        "import os",
        f"place = r'{tmp_path}/' + os.environ['RANK']",
        "names = ('LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')",
        "open(place, 'w').write(' '.join(os.environ[name] for name in names))",
    )
    assert not is_launched()
    assert launch(tell, 2) == 0
    first, second = ((tmp_path / str(rank)).read_text().split() for rank in (0, 1))
    assert first[:4] == ["0", "2", "2", "127.0.0.1"]
    assert second[0] == "1"
    assert second[1:] == first[1:]


def test_one_that_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    fail = script(
        "import os, sys, time", "sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    )
    begin = time.monotonic()
    assert launch(fail, 2) == 3
    assert time.monotonic() - begin < 30  # not the sleep of the other


def test_one_that_is_killed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    assert launch(script("import os", "os.kill(os.getpid(), 9)"), 2) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_process_once(tmp_path: Path, number: signal.Signals) -> None:
    heed = (
        "import os, signal, sys, time",
        "heard = []",
        f"signal.signal({int(number)}, lambda *_: heard.append(1))",
        f"place = r'{tmp_path}/' + os.environ['RANK']",
        "open(place, 'w').close()",
        "while not heard: time.sleep(0.01)",
        "time.sleep(0.3)",
        "sys.exit(100 + len(heard))",
    )
    parent = script(
        "import sys",
        "from samclip.merge.training.launcher import launch",
        f"sys.exit(launch({script(*heed)!r}, 2))",
    )
    process = subprocess.Popen(parent)
    while sum(1 for _ in tmp_path.iterdir()) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == 101


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):  # both new, without results of other tests
        command = [sys.executable, str(SCRIPT), str(folder)]
        assert launch(command, processes, {"OMP_NUM_THREADS": "1"}) == 0
    assert_alike(one, two)


def assert_alike(one: Path, two: Path) -> None:
    """Compare the results of two runs that took their sums in another order."""
    rows, others = StepLog(one / "log.csv").rows(), StepLog(two / "log.csv").rows()
    assert len(rows) == 3 + 5
    columns = ("loss", "clip", "sam", "embed", "learning_rate", "gradient_norm")
    # After eight steps the figures differ by up to 9e-5 of themselves.
    assert [numbers(row, columns) for row in rows] == [
        pytest.approx(numbers(row, columns), rel=3e-4) for row in others
    ]
    weights, also = load_file(one / "weights.safetensors"), load_file(two / "weights.safetensors")
    # Rates are up to 1e-3, and Adam moves a weight whose gradient is only rounding noise as far as
    # any other: the greatest difference is 6e-5, the greatest mean difference 4e-7.
    for name, weight in weights.items():
        assert np.abs(weight - also[name]).max() < 5e-4, name
        assert np.abs(weight - also[name]).mean() < 5e-6, name
    # The name of a photo may change where two are equally near, and there are two photos.
    evaluated = [
        [(record.stage, record.step, record.photos) for record in read_records(file)]
        for file in (one / "evaluation.json", two / "evaluation.json")
    ]
    assert evaluated[0] == evaluated[1] != []


def numbers(row: dict[str, str], columns: tuple[str, ...]) -> list[float]:
    return [float(row[column] or 0) for column in columns]
