"""The first run of a release: one image and one prompt, in another process, before it serves.

The process loads the bundle as the program that will serve it does. Whatever the release does to
that process, a crash or a hang, the deployment goes on to an error and the old release serves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from samclip.disk.partial_files import write_file
from samclip.engines.child_process import describe_end, end_after, start_child, starting
from samclip.errors import CapabilityError, DeployError, SamclipError, WriteError
from samclip.runtime.assets import packaged_photos

TASK, REPORT, SAID = "task.json", "report.json", "said"
PHOTO, POINT, NAMES = "coffee.jpg", (300.0, 200.0), ("a cup of coffee", "a street")
SECONDS = 300.0  # a Jetson loads a large plan from a slow disk, and the libraries first
MAX_ERROR = 2000
START = starting("samclip.runtime.deploy.first_run")


class FirstRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a release answered.

    `backend`: what ran it; `masks`: how many the prompt got; `load_seconds` and `answer_seconds`;
    `passed_over`: the faster backends that were not taken, with their reasons; `error`: "" when all
    went well.
    """

    backend: str = ""
    masks: int = 0
    load_seconds: float = 0.0
    answer_seconds: float = 0.0
    passed_over: tuple[str, ...] = ()
    error: str = ""


class RunTask(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: the arguments of `samclip.load`, and the seconds that all may take."""

    bundle: str
    backend: str
    precision: str | None
    public_key: str | None
    seconds: float


def run_once(task: RunTask) -> FirstRun:
    """Load a bundle in another process and let it answer once.

    Raises DeployError when it does not answer in time, crashes or fails, WriteError when there is
    no room for the process's files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="samclip-first-run-") as made:
            report = _run(task, Path(made))
    except OSError as error:
        raise WriteError(
            f"the first run of {task.bundle} could not begin: {error.filename or 'TMPDIR'}: "
            f"{error.strerror or error}. Make room there, or set TMPDIR to another folder."
        ) from error
    if report.error:
        raise DeployError(
            f"{task.bundle} does not run on this device: {report.error}. It is not deployed, and "
            "what served before still does. Mend that, or deploy another bundle, precision or "
            "backend."
        )
    return report


def _run(task: RunTask, folder: Path) -> FirstRun:
    (folder / TASK).write_bytes(msgspec.json.encode(task))
    with (folder / SAID).open("wb") as said:
        process = start_child(START, str(folder), subprocess.DEVNULL, said, said)
        try:
            process.wait(task.seconds)
        except subprocess.TimeoutExpired:
            return _hung(task)
        finally:
            process.kill()
            process.wait()
    with suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=FirstRun)
    if process.returncode == -getattr(signal, "SIGALRM", 0):  # the child's own timer
        return _hung(task)
    said_text = (folder / SAID).read_bytes()
    return FirstRun(error=f"its process ended with {describe_end(process.returncode, said_text)}")


def _hung(task: RunTask) -> FirstRun:
    return FirstRun(error=f"it gave no answer within {task.seconds:g} s")


def main(folder: str) -> None:
    """Do the task in `folder`, and write the report there: the child's part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    root = Path(folder)
    task = msgspec.json.decode((root / TASK).read_bytes(), type=RunTask)
    end_after(task.seconds)
    try:
        report = answer_once(task)
    except (SamclipError, OSError, MemoryError) as error:
        report = FirstRun(error=f"{type(error).__name__}: {error}"[:MAX_ERROR].rstrip(". "))
    write_file(root / REPORT, msgspec.json.encode(report), synced=False)
    sys.stdout.flush()
    os._exit(0)  # without waiting for the libraries' threads


def answer_once(task: RunTask) -> FirstRun:
    """Load the bundle, encode a packaged photo, prompt it with a point, and name it if it can."""
    from samclip.runtime.loading import load  # noqa: PLC0415 - in the child alone

    started = time.monotonic()
    with load(
        task.bundle, task.backend, precision=task.precision, public_key=task.public_key
    ) as model:
        loaded = time.monotonic()
        scene = model.encode(packaged_photos() / PHOTO)
        masks = scene.segment(points=[POINT])
        with suppress(CapabilityError):  # a bundle that only segments
            scene.classify(list(NAMES))
        return FirstRun(
            backend=model.backend,
            masks=len(masks.packed),
            load_seconds=round(loaded - started, 2),
            answer_seconds=round(time.monotonic() - loaded, 2),
            passed_over=tuple(map(str, model.passed_over)),
        )
