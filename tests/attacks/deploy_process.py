"""A process that rolls a deployment back and is killed, or deploys many bundles at once.

    python deploy_process.py rollback FOLDER           (with the failing disk)
    python deploy_process.py together FOLDER ROUNDS PROCESSES

Prints the counts as JSON. A broken promise raises.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "attacks")]

from disk_writers import DeployWriter, number_at  # noqa: E402
from faulty_disk import FAULTS  # noqa: E402
from writer_process import REFUSED, kill_at, start_together, wait_for  # noqa: E402


class RollbackWriter(DeployWriter):
    """A rollback in place of a deployment."""

    def write(self, number: int) -> None:
        from samclip.runtime.deploy.deployment import DeploySettings, roll_back

        roll_back(self.place, DeploySettings(build=False))


def rollback(folder: Path) -> dict[str, int]:
    """Kill a rollback at its first, second ... call; both releases stay, and it can be repeated."""
    from samclip.runtime.deploy.status import read_state

    found = Counter[str]()
    DeployWriter(folder).write(1)
    DeployWriter(folder).write(2)
    writer, at = RollbackWriter(folder), 0
    while True:
        at += 1
        before = number_at(writer.place / "current")
        if not kill_at(writer, FAULTS["SIGKILL"], at, 0):
            return dict(found)
        after = number_at(writer.place / "current")
        state = read_state(writer.place)
        assert state.current is not None
        assert state.previous is not None
        other = number_at(writer.place / "releases" / state.previous)
        assert {after, other} == {1, 2}, "a release is lost"
        found["points"] += 1
        found["old" if after == before else "new"] += 1
        writer.write(0)
        assert number_at(writer.place / "current") == other
        assert number_at(writer.place / "previous") == after
        assert writer.leftovers() == []


def together(folder: Path, rounds: int, processes: int) -> dict[str, int]:
    """Deploy different bundles to one folder at once: one serves, and others are refused or wait.

    A process that finds the folder busy tries for a moment.
    """
    found = Counter[str]()
    writer = DeployWriter(folder)
    writer.write(1)
    for turn in range(rounds):
        numbers = [2 + turn * processes + place for place in range(processes)]
        for number in numbers:
            writer.prepare(number)
        codes = wait_for(start_together(writer, numbers))
        assert set(codes) <= {0, REFUSED}, codes
        assert 0 in codes
        found["written"] += codes.count(0)
        found["refused"] += codes.count(REFUSED)
        assert writer.version() in {n for n, code in zip(numbers, codes, strict=True) if code == 0}
        assert writer.leftovers() == []
    return {**found, "rounds": rounds}


def main() -> None:
    """Do what the command line says."""
    what, folder, *rest = sys.argv[1:]
    work = {"rollback": rollback, "together": together}[what]
    print(json.dumps(work(Path(folder), *map(int, rest))))


if __name__ == "__main__":
    os.environ["SAMCLIP_CACHE_DIR"] = str(Path(sys.argv[2]).with_name("cache"))
    main()
