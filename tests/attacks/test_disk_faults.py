"""Disks that are full, read-only, or broken at any call of the system that a writer makes.

Two means: a library between samclip and the system, which makes the N-th call fail for every N
(disk_faults.c), and real limits: a disk of a megabyte, a disk mounted read-only, files that may not
grow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_disk import FAULTS, environment
from figures import Figures
from writer_runs import NAMES, run_writer, sentence

from samclip.benchmarks.records import Data
from samclip.benchmarks.report import make_report, write_report
from samclip.runtime.assets import packaged_photos

SMALL = "size=1500k"


@pytest.mark.parametrize(
    ("writer", "fault"),
    [
        ("bundle", "ENOSPC from then on"),
        ("plan", "EIO once"),
        ("blob", "short writes"),
        ("picture", "SIGKILL"),
        ("deploy", "ENOSPC from then on"),
    ],
)
def test_some_calls_fail(writer: str, fault: str, quick_folder: Path) -> None:
    found, _ = run_writer("fail", writer, quick_folder, fault, environment=environment())
    assert found["points"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("writer", NAMES)
def test_each_call_of_a_write_fails(
    writer: str, fault: str, tmp_path: Path, figures: Figures
) -> None:
    found, _ = run_writer("fail", writer, tmp_path, fault, environment=environment())
    if not found:
        assert fault == "EIO of a read"  # this writer reads nothing back
        return
    name = f"{fault}, at each call of a write: old or new, 0 partial"
    figures.add(name, count=found["points"], found=f"{NAMES[writer]}: {describe(found)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk, too small for three versions."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_the_old_bundle(small_disk: Path) -> None:
    found, _ = run_writer("fill", "bundle", small_disk)
    assert found["errors"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_a_small_disk_runs_full(writer: str, small_disk: Path, figures: Figures) -> None:
    found, _ = run_writer("fill", writer, small_disk)
    assert found.get("new", 0) < found["points"]
    name = "a real disk of 1.5 MB runs full during a write: old or new, 0 partial"
    figures.add(name, count=found["points"], found=f"{NAMES[writer]}: {describe(found)}")


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_a_file_may_not_grow(writer: str, tmp_path: Path, figures: Figures) -> None:
    found, _ = run_writer("limit", writer, tmp_path)
    name = "RLIMIT_FSIZE during a write: old or new, 0 partial"
    figures.add(name, count=found["points"], found=f"{NAMES[writer]}: {describe(found)}")


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_a_disk_becomes_read_only(writer: str, small_disk: Path, figures: Figures) -> None:
    found, _ = run_writer("lock", writer, small_disk)
    assert found["old"] == found["points"] == 3
    name = "a real disk mounted read-only, then a write: old, 0 partial"
    figures.add(name, count=found["points"], found=f"{NAMES[writer]}: {describe(found)}")


def commands(folder: Path) -> dict[str, list[str]]:
    """Commands by the file that each writes."""
    photo = str(packaged_photos() / "coffee.jpg")
    report = folder.parent / "in.json"
    if not report.exists():
        made = make_report("latency", [], DATA, [], [], seconds=1, threads=None)
        write_report(made, report)
    return {
        "out.png": ["samclip.cli.main", "segment", photo, "--point", "300,200", "--output"],
        "out.html": ["samclip.benchmarks.cli.main", "report", str(report), "--output"],
    }


DATA = Data(path="", layout="photos", photos=0, photos_there=0)


def run_command(words: list[str], target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words, str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.png", "out.html"])
def test_commands_on_a_full_disk(name: str, small_disk: Path, figures: Figures) -> None:
    target, ballast = small_disk / name, small_disk / "ballast"
    words = commands(small_disk)[name]
    target.write_bytes(b"old")
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    done = run_command(words, target)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{target} could not be written: No space left" in done.stderr
    assert "Make room" in done.stderr
    assert target.read_bytes() == b"old"
    assert {path.name for path in small_disk.iterdir()} == {name, "ballast"}
    ballast.unlink()
    assert run_command(words, target).returncode == 0
    assert target.stat().st_size > 1000
    figures.add("commands that write to a full disk", count=1, found="one line, exit code 1, old")


def describe(found: dict[str, int]) -> str:
    """Return in words what was found, and how many writes raised; writes of caches never do."""
    states = [state for state in ("old", "new", "absent") if state in found]
    return f"{sentence(found, *states)}, {found.get('errors', 0)} typed errors"
