"""A process in which writers are killed, or their disk fails; prints the counts as JSON.

    python writer_process.py kill WRITER FOLDER COUNT SEED RESTARTS
    python writer_process.py fail WRITER FOLDER FAULT
    python writer_process.py fill WRITER FOLDER          (FOLDER is a small disk)
    python writer_process.py lock WRITER FOLDER          (likewise)
    python writer_process.py limit WRITER FOLDER
    python writer_process.py together WRITER FOLDER ROUNDS PROCESSES

Imports are done once; every writer that is to be killed is a fork. A broken promise raises.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "attacks")]

from disk_writers import WRITERS, Writer  # noqa: E402
from faulty_disk import FAULTS, Calls, Fault, arm, disarm  # noqa: E402

from samclip.errors import SamclipError  # noqa: E402

SIZES = range(0, 640_000, 20_000)  # bytes that still fit on a disk, or in a file
TEMPORARY = tempfile.gettempdir()  # found by writing to it: before any disk fails
PATIENCE = 120  # seconds until a process counts as hanging


def kill(writer: Writer, count: int, seed: int, restarts: int) -> dict[str, int]:
    """Kill a writer `count` times at random moments; return the counts of what was found then.

    After every `restarts` kills a writer may finish; the others start where the last was killed.
    """
    moments, found = random.Random(seed), Counter[str]()
    seconds = first_versions(writer)
    number = 3
    for turn in range(count):
        before = writer.version()
        child = fork_writing(writer, number)
        time.sleep(moments.uniform(0, 4 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        after = writer.version()
        found[judge(writer, before, after)] += 1
        left = writer.leftovers()
        found["leftovers"] += bool(left)
        assert sum(name.endswith(".partial") for name in left) <= 2, left  # those of one writer
        number = max(number, after or 0) + 1
        if turn % restarts == restarts - 1 or turn == count - 1:
            number = clean_up(writer, number)
    return dict(found)


def judge(writer: Writer, before: int | None, after: int | None) -> str:
    """Return whether the old version, the new one or none is there."""
    if after is None:
        assert writer.may_be_absent, "nothing is left"
        return "absent"
    assert before is None or after >= before, f"version {after} came after {before}"
    return "old" if after == before else "new"


def first_versions(writer: Writer) -> float:
    """Write two versions; returns the seconds that the second took."""
    writer.reset()
    writer.write(1)
    began = time.monotonic()
    writer.reset()
    writer.write(2)
    seconds = time.monotonic() - began
    assert writer.leftovers() == []
    return seconds


def fork_writing(writer: Writer, number: int) -> int:
    """Fork a child that writes versions until it is killed."""
    child = os.fork()
    if child:
        return child
    try:
        while True:
            writer.reset()
            writer.write(number)
            number += 1
    finally:  # no child may come back into the parent's code
        os._exit(1)


def clean_up(writer: Writer, number: int) -> int:
    """Let a writer finish: it leaves its version, and nothing of the killed ones."""
    writer.reset()
    writer.write(number)
    assert writer.version() in {number, 0}, f"not {number}"
    assert writer.leftovers() == []
    return number + 1


def fail(writer: Writer, fault: Fault) -> dict[str, int]:
    """Let the fault happen at the first, second ... call of a write, until there are no more."""
    found = Counter[str]()
    first_versions(writer)
    number, at = 3, 0
    while True:
        at += 1
        before = writer.version()
        writer.reset()
        reached = strike(writer, fault, at, number, found)
        if not reached:
            return dict(found)
        found["points"] += 1
        after = writer.version()
        found[judge(writer, before, after)] += 1
        check_leftovers(writer, fault, at)
        number = clean_up(writer, number + 1)


def strike(writer: Writer, fault: Fault, at: int, number: int, found: Counter[str]) -> bool:
    """Write once with the fault at one call; returns whether there were that many calls."""
    if fault.action == Fault.KILL:
        return kill_at(writer, fault, at, number)
    arm(writer.folder, fault, at)
    try:
        writer.write(number)
    except SamclipError as error:
        calls = disarm()
        check_error(writer, error)
        found["errors"] += 1
    else:
        calls = disarm()
        if fault.action == Fault.SHORT:
            assert writer.version() in {number, 0}, "a short write lost bytes"
    return calls >= at


def kill_at(writer: Writer, fault: Fault, at: int, number: int) -> bool:
    child = os.fork()
    if not child:
        arm(writer.folder, fault, at)
        try:
            writer.write(number)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def check_error(writer: Writer, error: SamclipError) -> None:
    """Check that an error has one of the writer's types, and names its file in one line."""
    assert isinstance(error, writer.raises), f"{type(error).__name__}: {error}"
    assert len(str(error).splitlines()) == 1
    places = (str(writer.folder), "p.tar.gz", TEMPORARY, "TMPDIR")
    assert any(place in str(error) for place in places), error


def check_leftovers(writer: Writer, fault: Fault, at: int) -> None:
    """Check that nothing is left over, except where nothing could be removed."""
    left = writer.leftovers()
    if fault.action != Fault.KILL and not fault.calls & Calls.REMOVE:
        assert left == [], f"left over after {fault.name} at call {at}: {left}"


def fill(writer: Writer) -> dict[str, int]:
    """Write with so many bytes left on the disk, which no other process uses."""
    ballast, found = writer.folder / "ballast", Counter[str]()

    def restrict(size: int) -> None:
        disk = os.statvfs(writer.folder)
        with ballast.open("wb") as file:
            file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - size)))

    squeeze(writer, restrict, ballast.unlink, found)
    return dict(found)


def lock(writer: Writer) -> dict[str, int]:
    """Write to a disk that was remounted read-only."""
    found = Counter[str]()
    first_versions(writer)
    for number in (3, 4, 5):
        before = writer.version()
        mount(writer.folder, "ro")
        try:
            writer.write(number)
        except SamclipError as error:
            check_error(writer, error)
            found["errors"] += 1
        found[judge(writer, before, writer.version())] += 1
        found["points"] += 1
        mount(writer.folder, "rw")
    clean_up(writer, 6)
    return dict(found)


def mount(folder: Path, way: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{way}", str(folder)], check=True)


def limit(writer: Writer) -> dict[str, int]:
    """Write where no file may grow beyond so many bytes; Python ignores SIGXFSZ."""
    found, most = Counter[str](), resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def restrict(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

    squeeze(writer, restrict, lambda: restrict(most), found)
    return dict(found)


def squeeze(
    writer: Writer,
    restrict: Callable[[int], object],
    release: Callable[[], object],
    found: Counter[str],
) -> None:
    """Write at every size; the old version stays whole, and later runs work."""
    first_versions(writer)
    number = 3
    for size in SIZES:
        before = writer.version()
        writer.reset()
        writer.prepare(number)
        restrict(size)
        try:
            writer.write(number)
        except SamclipError as error:
            check_error(writer, error)
            found["errors"] += 1
        after = writer.version()
        release()
        found["points"] += 1
        found[judge(writer, before, after)] += 1
        assert writer.leftovers() == []
        number = clean_up(writer, number + 1)


def together(writer: Writer, rounds: int, processes: int) -> dict[str, int]:
    """Let several processes write to one place at once."""
    found = Counter[str]()
    first_versions(writer)
    for turn in range(rounds):
        writer.reset()
        numbers = [3 + turn * processes + place for place in range(processes)]
        codes = wait_for(start_together(writer, numbers))
        assert set(codes) <= {0, REFUSED}, codes
        found["written"] += codes.count(0)
        found["refused"] += codes.count(REFUSED)
        assert codes.count(0) == (1 if writer.one_wins else processes)
        assert writer.version() in {*numbers, 0}
        assert writer.leftovers() == []
    return {**found, "rounds": rounds}


REFUSED = 3  # exit code of a writer that lost to another


def start_together(writer: Writer, numbers: list[int]) -> list[int]:
    """Fork a writer for each number; they begin when the pipe on which they wait is closed."""
    reading, writing = os.pipe()
    children = []
    for number in numbers:
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(write_once(writer, number))
        children.append(child)
    os.close(reading)
    os.close(writing)
    return children


def write_once(writer: Writer, number: int) -> int:
    try:
        writer.write(number)
    except writer.raises:
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait_for(children: list[int]) -> list[int]:
    """Wait for processes, up to a limit; returns their exit codes."""
    codes = []
    until = time.monotonic() + PATIENCE
    for child in children:
        while (state := os.waitpid(child, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < until, "a writer hangs"
            time.sleep(0.001)
        codes.append(os.waitstatus_to_exitcode(state[1]))
    return codes


def main() -> None:
    """Do what the command line says."""
    what, name, folder, *rest = sys.argv[1:]
    writer = WRITERS[name](Path(folder))
    if what == "fail":
        found = fail(writer, FAULTS[rest[0]])
    else:
        kinds = (kill, fill, lock, limit, together)
        work = next(kind for kind in kinds if kind.__name__ == what)
        found = work(writer, *map(int, rest))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
