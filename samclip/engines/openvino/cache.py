"""Compiled models on the disk: what OpenVINO exported, and a sidecar with its SHA-256.

Two files per key: the sidecar `KEY.json`, put in place last, and the blob, whose name ends in the
first digits of its SHA-256, so that a new blob never overwrites one that is being read. A blob
steers native code, so only the user's own files, which nobody else can write to, are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from samclip.disk.cache_folder import cache_dir, make_private_folder
from samclip.disk.partial_files import (
    is_safely_owned,
    locked_partial,
    make_empty_file,
    open_without_links,
    remove_abandoned,
    write_file,
)

FOLDER_NAME = "openvino"
LOCK_NAME = ".compile.lock"
BLOB_SUFFIX, SIDECAR_SUFFIX = ".blob", ".json"
MODE = 0o600
LIMIT_BYTES = 2 * 10**9  # of all blobs together: docs/evidence/cpu.md
LOCK_SECONDS = 60.0  # then another process's compiling is no longer waited for
MAX_SIDECAR_BYTES = 10_000
CHUNK_BYTES = 2**20

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class BlobDamagedError(Exception):
    """A blob cannot be used; for the cache alone, which compiles again."""


class BlobSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON file of a blob; `key` is a digest of what it was compiled from and for."""

    schema_version: Literal[1] = 1
    key: Sha256
    size: Annotated[int, msgspec.Meta(gt=0)]
    sha256: Sha256


def blob_folder() -> Path:
    """Return the folder of blobs: `openvino` in `$SAMCLIP_CACHE_DIR` or the user's cache.

    Raises OSError where no home folder is known.
    """
    return cache_dir() / FOLDER_NAME


@contextmanager
def only_compiling(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock, for a minute at most; raises OSError."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - a blob that is there needs none

    make_private_folder(folder)
    lock = FileLock(folder / LOCK_NAME)
    with contextlib.suppress(Timeout):  # both compile then, and the later blob stays
        lock.acquire(timeout=LOCK_SECONDS)
    try:
        yield
    finally:
        lock.release()


def map_blob(folder: Path, key: str) -> mmap.mmap | None:
    """Map the verified blob of `key` for reading, None when there is none.

    Raises BlobDamagedError when it, or its sidecar, is not what was written.
    """
    try:
        with _open_own(folder / f"{key}{SIDECAR_SUFFIX}") as file:
            sidecar = msgspec.json.decode(file.read(MAX_SIDECAR_BYTES), type=BlobSidecar)
        if sidecar.key != key:
            raise BlobDamagedError(f"its sidecar is of the key {sidecar.key}")
        path = _blob_path(folder, sidecar)
        with _open_own(path) as file:
            blob = _map(file, sidecar)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BlobDamagedError(str(error)) from error
    with contextlib.suppress(OSError):  # a cache that can only be read
        os.utime(path)  # says when it was last used
    return blob


def write_blob(folder: Path, key: str, export: Callable[[io.BytesIO], object]) -> None:
    """Store what `export` writes into its stream; raises OSError.

    The blob is not forced to the disk: one that a crash cut off is found by its SHA-256.
    """
    remove_abandoned(folder)
    with locked_partial(folder / key, make_empty_file(MODE)) as partial:
        with partial.open("r+b") as file:
            stream = _FileStream(file)
            export(stream)
            stream.check()
            size, digest = _digest(file)
        sidecar = BlobSidecar(key=key, size=size, sha256=digest)
        path = _blob_path(folder, sidecar)
        if size > LIMIT_BYTES:
            return
        partial.replace(path)
        place = folder / f"{key}{SIDECAR_SUFFIX}"
        write_file(place, msgspec.json.encode(sidecar), MODE, synced=False)
    _remove_others(folder, key, path)
    _keep_within(folder, LIMIT_BYTES, path)


def remove_blob(folder: Path, key: str) -> None:
    """Remove the sidecar of a key, then its blobs; what cannot be removed stays."""
    for path in (folder / f"{key}{SIDECAR_SUFFIX}", *folder.glob(f"{key}.*{BLOB_SUFFIX}")):
        with contextlib.suppress(OSError):
            path.unlink()


class _FileStream(io.BytesIO):
    """Passes on to a file what OpenVINO writes into a BytesIO, the only stream that it takes.

    OpenVINO goes back to fill in its header, so positions are the file's too. It swallows an error
    of `write`: `check` raises it.
    """

    def __init__(self, file: io.BufferedRandom) -> None:
        super().__init__()
        self._file = file
        self._error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def check(self) -> None:
        """Raise the error of `write`, if there was one."""
        if self._error is not None:
            raise self._error


def _blob_path(folder: Path, sidecar: BlobSidecar) -> Path:
    return folder / f"{sidecar.key}.{sidecar.sha256[:12]}{BLOB_SUFFIX}"


def _open_own(path: Path) -> Any:
    """Open a plain file that this user owns, following no link; raises BlobDamagedError."""
    file = os.fdopen(open_without_links(path), "rb")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or not is_safely_owned(status):
        file.close()
        raise BlobDamagedError("it is not a plain file of this user that only they can write to")
    return file


def _map(file: Any, sidecar: BlobSidecar) -> mmap.mmap:
    size, digest = _digest(file)
    if (size, digest) != (sidecar.size, sidecar.sha256):
        raise BlobDamagedError(
            f"it has {size:,} bytes of SHA-256 {digest}, its sidecar says {sidecar.size:,} "
            f"and {sidecar.sha256}"
        )
    # A private mapping that nothing writes to: OpenVINO's tensors want writable memory.
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)


def _digest(file: Any) -> tuple[int, str]:
    """Return size and SHA-256 of a file from its start, a piece at a time."""
    file.flush()
    file.seek(0)
    size, digest = 0, hashlib.sha256()
    while piece := file.read(CHUNK_BYTES):
        size += len(piece)
        digest.update(piece)
    return size, digest.hexdigest()


def _remove_others(folder: Path, key: str, newest: Path) -> None:
    """Remove the older blobs of a key."""
    for path in folder.glob(f"{key}.*{BLOB_SUFFIX}"):
        if path != newest:
            with contextlib.suppress(OSError):  # Windows: it is still mapped
                path.unlink()


def _keep_within(folder: Path, limit: int, newest: Path) -> None:
    """Remove the least recently used blobs, but never `newest`, down to `limit` bytes."""
    used = []
    for path in folder.glob(f"*{BLOB_SUFFIX}"):
        with contextlib.suppress(OSError):  # removed meanwhile
            status = path.lstat()
            used.append((path == newest, status.st_mtime, status.st_size, path))
    total = sum(size for _, _, size, _ in used)
    for is_newest, _, size, path in sorted(used):
        if total <= limit or is_newest:
            return
        remove_blob(folder, path.name.partition(".")[0])
        total -= size
