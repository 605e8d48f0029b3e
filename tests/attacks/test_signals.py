"""Commands stopped or killed during long work: only whole files, and no process left."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from command_process import CODES, WHOLE_EXPORT, Command, check_stopped
from figures import Figures
from interrupted_imports import NAMES, check_interrupted, count_imports
from writer_runs import SEED, seed

from samclip.runtime.assets import packaged_photos


def everything(folder: Path) -> list[object]:
    return ["samclip.commands:run", "everything", packaged_photos(), "--output", folder]


def bench(folder: Path) -> list[object]:
    options = ["--quick", "--backend", "onnxruntime", "--json", folder / "report.json"]
    return ["samclip.commands:bench", "latency", *options]


def export(folder: Path, checkpoint: Path) -> list[object]:
    options = ["--imgsz", 256, "--no-verify", "--overwrite", "--output", folder / "bundle"]
    return ["samclip.commands:export", "--checkpoint", checkpoint, *options]


def test_sigterm_ends_a_series(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    command = Command(everything(folder), tmp_path / "cache")
    code, errors = command.stop(signal.SIGTERM, 4)
    check_stopped(signal.SIGTERM, code, errors, folder)
    assert command.survivors() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["everything", "bench", "export"])
def test_commands_are_stopped(
    name: str,
    number: signal.Signals,
    tmp_path: Path,
    mobile_sam_checkpoint: Path,
    figures: Figures,
) -> None:
    moments, found = random.Random(seed()), []
    for turn in range(6):
        folder = tmp_path / f"{name}{turn}"
        folder.mkdir()
        words = {
            "everything": lambda folder=folder: everything(folder),
            "bench": lambda folder=folder: bench(folder),
            "export": lambda folder=folder: export(folder, mobile_sam_checkpoint),
        }[name]()
        command = Command(words, tmp_path / "cache")
        code, errors = command.stop(number, moments.uniform(0.2, 12))
        found.append(check_stopped(number, code, errors, folder))
        assert command.survivors() == []
    ends = ", ".join(f"{found.count(how)} {how}" for how in sorted(set(found)))
    figures.add(
        f"{number.name} during samclip {name}",
        count=len(found),
        found=f"{ends}; no partial file, no process left, no traceback",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", NAMES)
def test_commands_are_stopped_while_they_are_imported(
    name: str, number: signal.Signals, figures: Figures
) -> None:
    moments, count = random.Random(f"{seed()} {name}"), count_imports(name)
    for moment in [1, count, *(moments.randint(2, count - 1) for _ in range(23))]:
        check_interrupted(name, number, moment)
    figures.add(
        f"{number.name} while the modules of a command are imported",
        count=25,
        found="one line and the exit code, no traceback",
    )


@pytest.mark.slow
def test_the_export_command_is_killed(
    tmp_path: Path, mobile_sam_checkpoint: Path, figures: Figures
) -> None:
    """SIGKILL at random moments, most of them late, when files are written."""
    from samclip.runtime.bundles.bundle import Bundle

    words = export(tmp_path, mobile_sam_checkpoint)
    began = time.monotonic()
    assert Command(words, tmp_path / "cache").stop(signal.SIGKILL, WHOLE_EXPORT)[0] == 0
    seconds, states = time.monotonic() - began, []
    moments = random.Random(seed())
    for turn in range(10):
        before = (tmp_path / "bundle").stat().st_ino
        start = 0 if turn % 3 == 0 else 0.7
        Command(words, tmp_path / "cache").stop(
            signal.SIGKILL, seconds * moments.uniform(start, 1.1)
        )
        Bundle.open(tmp_path / "bundle").verify()  # recovers a bundle that was set aside
        states.append("old" if (tmp_path / "bundle").stat().st_ino == before else "new")
    assert Command(words, tmp_path / "cache").stop(signal.SIGKILL, WHOLE_EXPORT)[0] == 0, SEED
    assert {path.name for path in tmp_path.iterdir()} <= {"bundle", "cache"}
    figures.add(
        "SIGKILL of samclip-export with real weights",
        count=10,
        found=f"{states.count('old')} old, {states.count('new')} new, 0 partial",
    )
