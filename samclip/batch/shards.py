"""The folder of a job: parquet files that appear whole, and the job that they belong to.

One process at a time writes there, under a lock. A file is renamed into place when it is complete,
so a key is either in a whole file or in none: a job that was killed, run again, answers each image
once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.batch.packages import import_pyarrow
from samclip.disk.partial_files import (
    Lock,
    as_write_error,
    make_empty_file,
    remove_abandoned,
    result_file,
)
from samclip.disk.user_files import read_user_file
from samclip.errors import BatchError, InputError, brief
from samclip.json_text import to_json, to_plain
from samclip.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

# Readers of data sets leave out files whose names begin with "_" or ".".
JOB_NAME = "_samclip_job.json"
LOCK_NAME = ".samclip_job.lock"
SHARD = re.compile(r"part-(\d{6,})\.parquet")
MAX_JOB_BYTES = 2**26
SECONDS = 60.0  # of work that a kill may lose
BUFFER_BYTES = 2**26


@dataclass(frozen=True)
class Identity:
    """What the rows of a folder have in common: the bundle, and the question.

    `digest`: the SHA-256 of the bundle's manifest, which has those of all its files.
    """

    bundle: str
    digest: str
    precision: str | None
    question: Mapping[str, Any]
    engine_precision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        bundle = {"bundle": self.bundle, "manifest_sha256": self.digest}
        engine = {} if self.engine_precision is None else {"engine": self.engine_precision}
        return {**bundle, "precision": self.precision, **engine, **self.question}


class JobFolder:
    """The parquet files of a job, made by `open_job_folder`.

    `finished`: the keys that they have; `errors`: how many of these rows have an error; `written`:
    the files that this run added.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, identity: Identity, rows_per_file: int
    ) -> None:
        self.folder = folder
        self.finished: set[str] = set()
        self.errors = 0
        self.written: list[Path] = []
        metadata = {
            "samclip.version": __version__,
            "samclip.manifest_sha256": identity.digest,
            "samclip.job": to_json(identity.to_dict()),
        }
        self._schema = schema.with_metadata(metadata)
        self._rows_per_file = rows_per_file
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0  # of those that wait
        self._since = time.monotonic()
        self._next = 0

    def add(self, table: pa.Table) -> None:
        """Add rows; they are written when there are enough of them, or have waited 60 seconds.

        A key that is there already is left out. Raises WriteError.
        """
        keys = table.column("key").to_pylist()
        if twice := self.finished.intersection(keys):
            table = table.filter([key not in twice for key in keys])
        self.finished.update(keys)
        self.errors += count_errors(table)
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        late = time.monotonic() - self._since > SECONDS
        if self._rows >= self._rows_per_file or self._bytes >= BUFFER_BYTES or late:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait; raises WriteError."""
        pa = import_pyarrow()
        waiting, rows = self._waiting, self._rows
        self._waiting, self._rows, self._bytes = [], 0, 0
        if rows:
            table = pa.concat_tables(waiting).replace_schema_metadata(self._schema.metadata)
            path = self.folder / f"part-{self._next:06d}.parquet"
            self._write(table, path)
            self._next += 1
            self.written.append(path)

    def read_finished(self, retry_errors: bool) -> None:
        """Read the keys of all files; with `retry_errors`, take rows with an error out of them.

        Raises BatchError for a file that cannot be read, WriteError.
        """
        for path, number in list_shards(self.folder):
            self._next = max(self._next, number + 1)
            table = _read(path, ["key", "error"])
            if retry_errors and count_errors(table):
                table = self._drop_errors(path)
            keys = table.column("key").to_pylist()
            if twice := self.finished.intersection(keys):
                raise BatchError(
                    f"{path} has the image {min(twice)!r}, which another file of the folder has "
                    "too. Files of two jobs were mixed; take one of them out."
                )
            self.finished.update(keys)
            self.errors += count_errors(table)

    def _drop_errors(self, path: Path) -> pa.Table:
        """Write a file again without the rows that have an error; return what stays."""
        table = _read(path)
        table = table.filter(table.column("error").is_null())
        if len(table):
            self._write(table, path)
        else:
            with as_write_error(path):
                path.unlink()
        return table

    def _write(self, table: pa.Table, path: Path) -> None:
        with result_file(path) as file:
            import_pyarrow().parquet.write_table(table, file, compression="zstd")


@contextmanager
def open_job_folder(
    folder: Path,
    schema: pa.Schema,
    identity: Identity,
    *,
    rows_per_file: int = 1000,
    retry_errors: bool = False,
) -> Iterator[JobFolder]:
    """Open a folder for a job, made if need be; rows that wait are written at the end of the block.

    Also when the block raises. Raises BatchError while another process writes there and for files
    of another job; WriteError.
    """
    if rows_per_file < 1:
        raise InputError(f"rows_per_file must be at least 1; got {brief(rows_per_file)}.")
    with as_write_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # of an earlier run, or of one that starts now
            make_empty_file()(folder / LOCK_NAME)
        lock = Lock(folder / LOCK_NAME)
    with closing(lock):
        if lock.is_ours is False:
            raise BatchError(
                f"another process writes to {folder}. Wait for it, or give another folder."
            )
        _check_identity(folder, identity)
        remove_abandoned(folder)
        found = JobFolder(folder, schema, identity, rows_per_file)
        found.read_finished(retry_errors)
        try:
            yield found
        finally:
            found.flush()


def list_shards(folder: Path) -> list[tuple[Path, int]]:
    """List the parquet files of a job with their numbers, in order."""
    found = ((path, SHARD.fullmatch(path.name)) for path in folder.iterdir())
    return sorted(((path, int(match[1])) for path, match in found if match), key=lambda x: x[1])


def count_errors(table: pa.Table) -> int:
    """Return how many rows of a table have an error."""
    return int(len(table) - table.column("error").null_count)


def _check_identity(folder: Path, identity: Identity) -> None:
    """Write down what job the folder is of; raises BatchError where it is that of another one."""
    wanted = to_plain(identity.to_dict())
    place = folder / JOB_NAME
    if not place.exists():
        if found := list_shards(folder):
            raise BatchError(
                f"{folder} has {found[0][0].name} and no {JOB_NAME}, so that its job is not known. "
                "Restore that file, or give another folder."
            )
        with result_file(place) as file:
            file.write(to_json(wanted, indent=1).encode() + b"\n")
        return
    try:
        there = json.loads(read_user_file(place, MAX_JOB_BYTES, "the job", BatchError))
    except ValueError as error:
        raise BatchError(f"{place} is not JSON: {error}. Give another folder.") from error
    if there != wanted:
        was = there if isinstance(there, dict) else {}
        differ = "; ".join(
            f"{key}: {brief(was.get(key), 200)} there, {brief(wanted.get(key), 200)} now"
            for key in dict.fromkeys((*wanted, *was))
            if was.get(key) != wanted.get(key)
        )
        raise BatchError(
            f"{folder} has the rows of another job ({differ or 'of another version of samclip'}). "
            "Run it as before, or give another folder."
        )


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    pa = import_pyarrow()
    try:
        with pa.parquet.ParquetFile(path) as file:
            return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise BatchError(
            f"{path} cannot be read: {error}. Remove it, and its images are answered again."
        ) from error
