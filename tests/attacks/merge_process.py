"""A small merging run that is killed again and again, and continues until it ends.

    python merge_process.py FOLDER KILLS SEED

Every attempt is a fork of a process that has imported torch. After KILLS kills the run may end: its
weights and its log must be those of an undisturbed run. Prints the counts as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "attacks")]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_run import tiny_config, tiny_run, train  # noqa: E402

from samclip.disk.partial_files import remove_abandoned  # noqa: E402
from samclip.merge.training.evaluation import read_records  # noqa: E402
from samclip.merge.training.state import StateFolder  # noqa: E402


def attempt(output: Path) -> None:
    """Begin or continue the run, as a session does."""
    for folder in (output, output / "state"):
        remove_abandoned(folder)
    train(tiny_run(output, tiny_config(save_every=1)))


def fork_work(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Do what the command line says."""
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    began = time.monotonic()
    assert os.waitpid(fork_work(lambda: attempt(folder / "whole")), 0)[1] == 0
    seconds, moments = time.monotonic() - began, random.Random(seed)
    killed, ends, place = folder / "killed", 0, (0, 0)
    for _ in range(kills):
        child = fork_work(lambda: attempt(killed))
        time.sleep(moments.uniform(0, seconds / 2))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "an attempt failed"
        ends += not os.WIFSIGNALED(status)
        place = check_state(killed, place)
        if place[0] == 2:  # every stage is done: start another run
            assert_same(folder)
            shutil.rmtree(killed)
            place = (0, 0)
    assert os.waitpid(fork_work(lambda: attempt(killed)), 0)[1] == 0
    assert_same(folder)
    print(json.dumps({"kills": kills, "ends": ends}))


def check_state(output: Path, before: tuple[int, int]) -> tuple[int, int]:
    """Check that the state is whole and not older than before; return its stage and step."""
    state = StateFolder(output / "state").read(None)
    place = (0, 0) if state is None else (state.place.stage, state.place.step)
    assert place >= before, f"{place} came after {before}"
    return place


def assert_same(folder: Path) -> None:
    """Let the killed run end, and compare it with the undisturbed one."""
    assert os.waitpid(fork_work(lambda: attempt(folder / "killed")), 0)[1] == 0
    whole, killed = (load_file(folder / n / "weights.safetensors") for n in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    logs = [(folder / name / "log.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert [line.rpartition(",")[0] for line in logs[0]] == [
        line.rpartition(",")[0] for line in logs[1]
    ]
    records = [read_records(folder / name / "evaluation.json") for name in ("whole", "killed")]
    assert records[0] == records[1]
    left = [path.name for path in (folder / "killed").rglob(".*")]
    assert left == [], left


if __name__ == "__main__":
    main()
