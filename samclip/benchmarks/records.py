"""The records of a report, as `--json` writes them: what was measured, where, and the rows."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Literal

import msgspec

from samclip.benchmarks.measurements import Measurements, Record

Unit = Literal["share", "difference", "seconds", "ratio", "per second", "bytes", "joules", "count"]


class Row(Record, frozen=True, kw_only=True):
    """One figure: `measure` of `model` over `subset`, with the ends of its 95 % interval.

    `n`: how many objects, photos or pixels it is over, from `photos` photos. A `share` is in
    [0, 1]; a `difference` is of two shares of the same objects, in [-1, 1]; a `ratio` says in its
    measure what is divided by what; a `count` is of parameters or multiply-accumulates. Rows of
    `detail` are for files; tables leave them out.
    """

    model: str
    measure: str
    subset: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    photos: int
    unit: Unit = "share"
    detail: bool = False


class Machine(Record, frozen=True, kw_only=True):
    """Hardware and versions; `memory` in bytes, 0 if unknown; cores as in `DeviceInfo`."""

    cpu: str
    logical_cores: int
    usable_cores: int
    memory: int
    system: str
    machine: str
    python: str
    jetson: str | None
    gpus: tuple[str, ...]
    packages: dict[str, str]


class Threads(Record, frozen=True, kw_only=True):
    """Numbers of threads: `asked` by option, `engine` per graph on the CPU.

    `torch` is None where torch was not in use. `environment`: variables that libraries read.
    `load`: how many processes wanted a core at the end of the run, averaged over 1, 5 and 15
    minutes, this one included; None where the system has no such figure.
    """

    asked: int | None
    engine: int
    opencv: int
    torch: int | None
    environment: dict[str, str]
    load: tuple[float, float, float] | None


class Subject(Record, frozen=True, kw_only=True):
    """A model that was measured; `name` is what rows call it.

    For a bundle, `manifest_sha256` is the hash of its manifest, which lists the hash of every
    file, and `engine_precision` what its engines compute in where graphs are in FP32. For a
    teacher, `fingerprint` is a digest of all that its outputs depend on.
    """

    name: str
    role: str
    path: str | None = None
    manifest_sha256: str | None = None
    backend: str | None = None
    precision: str | None = None
    engine_precision: str | None = None
    image_size: int | None = None
    trained_head: bool | None = None
    fingerprint: str | None = None


class Data(Record, frozen=True, kw_only=True):
    """The data of a run: `photos` used of `photos_there`, and numbers of what was left out."""

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


class Report(Measurements, frozen=True, tag_field="schema_version", tag=1):
    """A run of a benchmark, complete enough to be run again; JSON has `schema_version` 1.

    `date`: UTC, ISO 8601, of the end; `seconds`: how long it took; `protocol`: how the figures
    are defined. The fields of `Measurements` follow these.
    """

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
