"""One build at a time on a machine: two would share its memory, and time each other's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from samclip.engines.plans.progress import BuildReport
from samclip.engines.plans.store import plan_folder
from samclip.errors import BackendUnavailableError, PlanBuildError

LOCK_NAME = ".build.lock"


@contextmanager
def only_build(report: BuildReport) -> Iterator[None]:
    """Hold the machine's lock for builds; waits for another process's build, and says so."""
    try:
        from filelock import FileLock, Timeout  # noqa: PLC0415 - needed for builds alone
    except ImportError as error:
        raise BackendUnavailableError(
            "building plans needs the package filelock. To do: pip install filelock."
        ) from error
    folder = plan_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report.message("another process builds a plan: waiting for it to end")
            lock.acquire()
    except OSError as error:
        raise PlanBuildError(
            f"{folder} cannot be written to: {error.strerror}. Plans and the lock of their builds "
            "live there: set SAMCLIP_CACHE_DIR to a folder of your own."
        ) from error
    try:
        yield
    finally:
        lock.release()
