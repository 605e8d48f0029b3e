"""TensorRT's timings of kernels, kept between builds, and the lock that builds one plan at a time.

With the timings a second build takes a fraction of the time. A cache is for one version of TensorRT
on one kind of GPU. It begins with its digest; a damaged one is ignored, and the build times
everything again. Two builds at once would share the machine's memory, and disturb each other's
timings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samclip.disk.cache_folder import make_private_folder
from samclip.engines.plans.library import Library
from samclip.engines.plans.own_files import read_digested, write_digested
from samclip.engines.plans.store import FOLDER_MODE, plan_folder
from samclip.errors import BackendUnavailableError, PlanBuildError, PlanDamagedError
from samclip.progress import Progress

FOLDER_NAME = "timings"
MAX_BYTES = 2**28

_logger = logging.getLogger("samclip")

LOCK_NAME = ".build.lock"


def timing_file(library: Library) -> Path | None:
    """Return the cache of a library that times kernels here; None for one that does not."""
    gpu = library.state.gpu
    if not library.kind.needs_gpu or gpu is None:
        return None
    gpu_name = re.sub(r"[^\w]+", "-", gpu.name)
    file = f"{library.name}-{library.version}-{gpu.capability}-{gpu_name}.timings"
    return plan_folder() / FOLDER_NAME / file


def load_timings(config: Any, path: Path | None) -> None:
    """Load the timings of earlier builds into a build; none when they are damaged or absent."""
    if path is None:
        return
    cache = config.create_timing_cache(_read(path))
    if cache is None or not config.set_timing_cache(cache, False):
        _logger.warning(
            "the timings in %s are of another GPU or TensorRT: everything is timed again", path
        )
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timings(config: Any, path: Path | None) -> None:
    """Save the timings of a build for later ones; an error of the disk is only logged."""
    if path is None:
        return
    cache = config.get_timing_cache()
    data = b"" if cache is None else bytes(cache.serialize())
    if not data:
        return
    try:
        write_digested(path, data)
    except OSError as error:
        _logger.warning("the timings of this build are not kept in %s: %s", path, error.strerror)


def _read(path: Path) -> bytes:
    try:
        return read_digested(path, MAX_BYTES)
    except FileNotFoundError:
        return b""
    except PlanDamagedError as error:
        _logger.warning("the timings are not used, and everything is timed again: %s", error)
        return b""


@contextmanager
def only_build(progress: Progress) -> Iterator[None]:
    """Hold the machine's lock for builds; wait for another process's build, and report that."""
    try:
        from filelock import FileLock, Timeout  # noqa: PLC0415 - needed for builds alone
    except ImportError as error:
        raise BackendUnavailableError(
            "building plans needs the package filelock. To do: pip install filelock."
        ) from error
    folder = None
    try:
        folder = plan_folder()
        make_private_folder(folder, FOLDER_MODE)
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note("another process builds a plan: waiting for it to end")
            lock.acquire()
    except OSError as error:
        raise PlanBuildError(
            f"{folder or 'the folder of plans'} cannot be used: {error.strerror}. Plans and the "
            "lock of their builds live there: set SAMCLIP_CACHE_DIR to a folder of your own."
        ) from error
    try:
        yield
    finally:
        lock.release()
