"""The report of a run: what was measured, with what, where, and the rows.

Files that appear whole or not at all.
"""

from __future__ import annotations

import datetime
import hashlib
import shlex
import sys
import tempfile
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Literal

import msgspec

from samclip.benchmarks.latency.timing import Conditions, Energy, Settings, Timing
from samclip.benchmarks.memory.tables import MemoryUse
from samclip.benchmarks.record import Machine, Record, Threads, describe_machine, describe_threads
from samclip.benchmarks.roofline.records import Roofline
from samclip.benchmarks.rows import Row
from samclip.disk.partial_files import remove_abandoned, result_file
from samclip.errors import InputError
from samclip.runtime.bundles.manifest import MANIFEST_NAME
from samclip.runtime.model import Model
from samclip.version import __version__


def check_writable(path: Path) -> Path:
    """Say before long work that `path` cannot be written; returns it in full.

    What runs that were killed left of it is removed. Raises InputError.
    """
    full = path.expanduser().absolute()
    if full.is_dir():
        raise InputError(f"{full} is a folder. Give the name of a file.")
    try:
        with tempfile.TemporaryFile(dir=full.parent):
            remove_abandoned(full.parent, {full.name})
            return full
    except OSError as error:
        raise InputError(
            f"{full} cannot be written: {error.strerror}. Make its folder, or choose another."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename over it; raises WriteError when the disk refuses."""
    with result_file(path) as file:
        file.write(data)


class Subject(Record, frozen=True, kw_only=True):
    """A model that was measured; `name` is what rows call it.

    For a bundle, `manifest_sha256` is of its manifest, which lists every file's own. For a
    teacher, `fingerprint` is what its outputs depend on.
    """

    name: str
    role: str
    path: str | None = None
    manifest_sha256: str | None = None
    backend: str | None = None
    precision: str | None = None
    image_size: int | None = None
    trained_head: bool | None = None
    fingerprint: str | None = None


class Data(Record, frozen=True, kw_only=True):
    """What was measured on: photos used out of those there are, and what was left out."""

    path: str
    layout: str
    photos: int
    photos_there: int
    left_out: dict[str, int] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        layout: str,
        used: Sized,
        there: Sized,
        left_out: dict[str, int] | None = None,
    ) -> Data:
        """Describe a folder of which the photos `used` were measured."""
        return cls(
            path=str(path),
            layout=layout,
            photos=len(used),
            photos_there=len(there),
            left_out=left_out or {},
        )


class Participant(Record, frozen=True, kw_only=True):
    """One of several programs that were compared, each a process in a separate environment.

    `image_size`: the side of its input in pixels. `python` and `packages`: versions of its
    environment, empty where none was made. `load_seconds`: the time to load the model. `reason`:
    why it has no figures; None where it has.
    """

    name: str
    what: str
    image_size: int
    python: str = ""
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    load_seconds: float | None = None
    reason: str | None = None


class Report(Record, frozen=True, kw_only=True):
    """A run of a benchmark, complete enough to be run again.

    `date`: UTC, ISO 8601, of the end; `seconds`: how long it took; `protocol`: how the figures
    are defined. `timings` and what follows hold the raw measurements from which `rows` were
    computed; benchmarks of accuracy, and reports of earlier versions, have none. `peers` lists who
    took part in a run of `tools/peers`.
    """

    schema_version: Literal[1] = 1
    benchmark: str
    command: str
    date: str
    seconds: float
    samclip: str
    machine: Machine
    threads: Threads
    subjects: tuple[Subject, ...]
    data: Data
    protocol: tuple[str, ...]
    rows: tuple[Row, ...]
    timings: tuple[Timing, ...] = ()
    memory: tuple[MemoryUse, ...] = ()
    energy: tuple[Energy, ...] = ()
    settings: tuple[Settings, ...] = ()
    conditions: Conditions | None = None
    roofline: Roofline | None = None
    peers: tuple[Participant, ...] = ()


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """The raw measurements of a report, by the names of its fields."""

    timings: tuple[Timing, ...] = ()
    memory: tuple[MemoryUse, ...] = ()
    energy: tuple[Energy, ...] = ()
    settings: tuple[Settings, ...] = ()
    conditions: Conditions | None = None
    roofline: Roofline | None = None
    peers: tuple[Participant, ...] = ()


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
    raw = measured or Measurements()
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
        timings=raw.timings,
        memory=raw.memory,
        energy=raw.energy,
        settings=raw.settings,
        conditions=raw.conditions,
        roofline=raw.roofline,
        peers=raw.peers,
    )


def describe_bundle(model: Model, name: str, role: str, precision: str | None = None) -> Subject:
    """Say which bundle a model is, down to the SHA-256 of its manifest file."""
    manifest = model.manifest
    data = (model.bundle.path / MANIFEST_NAME).read_bytes()
    return Subject(
        name=name,
        role=role,
        path=str(model.bundle.path),
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        backend=model.backend,
        precision=precision,
        image_size=manifest.preprocessing.image_size,
        trained_head=None if manifest.head is None else manifest.head.trained,
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
    try:
        data = path.expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    try:
        return msgspec.json.decode(data, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} is no report of samclip-bench: {error}. Give a file that --json has written."
        ) from error


def write_report(report: Report, path: Path) -> None:
    """Write a report as indented JSON, whole or not at all; raises OSError."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
