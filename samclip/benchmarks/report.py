"""Reports put together, written, and read: what was measured, with what, and where."""

from __future__ import annotations

import datetime
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import msgspec

from samclip.benchmarks.measurements import Measurements
from samclip.benchmarks.records import Data, Machine, Report, Row, Subject, Threads
from samclip.disk.partial_files import remove_abandoned, result_file
from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.engines.machine.device import describe_device
from samclip.engines.machine.host import usable_cores
from samclip.errors import InputError
from samclip.json_text import to_json
from samclip.runtime.bundles.manifest_file import manifest_sha256
from samclip.runtime.model import Model
from samclip.version import __version__

MAX_REPORT_BYTES = 2**28
PACKAGES = ("pycocotools", "torch", "tokenizers")  # in addition to those of `describe_device`
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def make_report(
    benchmark: str,
    subjects: Sequence[Subject],
    data: Data,
    protocol: Sequence[str],
    rows: Sequence[Row],
    *,
    seconds: float,
    threads: int | None,
    measured: Measurements | None = None,
) -> Report:
    """Put a report together on this machine, now, for this process's command line."""
    return Report(
        benchmark=benchmark,
        command=command_line(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        samclip=__version__,
        machine=describe_machine(),
        threads=describe_threads(threads),
        subjects=tuple(subjects),
        data=data,
        protocol=tuple(protocol),
        rows=tuple(rows),
        **msgspec.structs.asdict(measured or Measurements()),
    )


def describe_bundle(model: Model, name: str, role: str, precision: str | None = None) -> Subject:
    """Describe the bundle of a model, down to the SHA-256 of its manifest file."""
    manifest = model.manifest
    return Subject(
        name=name,
        role=role,
        path=str(model.bundle.path),
        manifest_sha256=manifest_sha256(model.bundle.path),
        backend=model.backend,
        precision=precision,
        engine_precision=model.engine_precision,
        image_size=manifest.preprocessing.image_size,
        trained_head=None if manifest.head is None else manifest.head.trained,
    )


def describe_machine() -> Machine:
    """Describe this machine, as `describe_device` sees it, with versions of more packages."""
    device = describe_device()
    return Machine(
        cpu=device.cpu,
        logical_cores=device.logical_cores,
        usable_cores=device.usable_cores,
        memory=device.memory,
        system=device.system,
        machine=device.machine,
        python=device.python,
        jetson=device.jetson,
        gpus=tuple(gpu.name for gpu in device.gpus),
        packages={**dict(device.packages), **dict(installed_versions(PACKAGES))},
    )


def installed_versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield those of the packages that are installed, with their versions."""
    for name in packages:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def describe_threads(asked: int | None) -> Threads:
    """Count the threads of this process's libraries; `asked`: the option's value."""
    torch = sys.modules.get("torch")
    return Threads(
        asked=asked,
        engine=usable_cores() if asked is None else min(asked, os.cpu_count() or 1),
        opencv=cv2.getNumThreads(),
        torch=None if torch is None else torch.get_num_threads(),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        load=os.getloadavg() if hasattr(os, "getloadavg") else None,
    )


def command_line() -> str:
    """Return the command that this process was started with, quoted for a shell."""
    program = [Path(sys.argv[0]).name]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if program == ["__main__.py"] and spec is not None:  # started by `python -m PACKAGE`
        program = ["python", "-m", spec.parent]
    return shlex.join([*program, *sys.argv[1:]])


def read_report(path: Path) -> Report:
    """Read a report, of this version or an earlier one; raises InputError."""
    advice = "Give a file that --json wrote."
    data = read_user_file(user_path(path), MAX_REPORT_BYTES, "the report", advice=advice)
    try:
        return msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a report of samclip-bench: {error}. Give a file that --json wrote."
        ) from error


def write_report(report: Report, path: Path) -> None:
    """Write a report as indented JSON, whole or not at all; raises WriteError."""
    text = to_json(msgspec.to_builtins(report), indent=1)  # also where a path is not UTF-8
    write_whole(path, text.encode() + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` into a file next to `path`, then rename it; raises WriteError.

    When the disk refuses, a file that was there stays as it is.
    """
    with result_file(path) as file:
        file.write(data)


def check_writable(path: Path, start: bytes = b"", inputs: Sequence[Path] = ()) -> Path:
    """Return `path` in full if it can be written, before long work; raises InputError if not.

    A file that is there may only be replaced if it is none of the `inputs` and begins with `start`,
    as what is to be written does. Partial files that killed runs left of it are removed.
    """
    try:
        full = user_path(path).absolute()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} cannot be written: the working folder was deleted. Go to another one."
        ) from error
    if full.is_dir():
        raise InputError(f"{full} is a folder. Give the name of a file.")
    if full.exists():
        _check_replaceable(full, start, inputs)
    try:
        with tempfile.TemporaryFile(dir=full.parent):
            remove_abandoned(full.parent, {full.name})
            return full
    except OSError as error:
        raise InputError(
            f"{full} cannot be written: {error.strerror}. Make its folder, or choose another."
        ) from error


def _check_replaceable(path: Path, start: bytes, inputs: Sequence[Path]) -> None:
    """Raise InputError unless an existing file is of the kind that is to take its place."""
    if any(other.exists() and path.samefile(other) for other in inputs):
        raise InputError(f"{path} is one of the reports that are read. Give another --output.")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a plain file. Give the name of a new file.")
    try:
        with path.open("rb") as file:
            found = file.read(len(start))
    except OSError as error:
        raise InputError(
            f"{path} cannot be looked at: {error.strerror}. Choose another."
        ) from error
    if found and found.lower() != start:
        raise InputError(
            f"{path} is there already, and samclip-bench did not write it. Remove it, or choose "
            "another."
        )
