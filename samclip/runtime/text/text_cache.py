"""A cache of text embeddings on disk: one SQLite file that threads and processes share.

The cache never changes an answer. A key is a digest of all that decides an embedding, see
`bundle_text`. Each row carries a digest of its key and vector, and a damaged row counts as absent.
A file that cannot be used, or that somebody else could have written to, is left alone, with one
warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.disk.cache_folder import CACHE_DIR_VARIABLE, check_private_file, open_cache
from samclip.disk.partial_files import open_without_links
from samclip.library_errors import is_library_error

FILE_NAME = "text-embeddings.sqlite3"
MAX_ROWS = 50_000  # 154 MB of 768-d vectors
BUSY_SECONDS = 10.0  # how long to wait for another process's write
TURN_SECONDS = 0.1  # of that in SQLite itself, which no signal interrupts
MODE = 0o600
# SQLite's own files next to the database: it takes over the pages that it finds there.
COMPANIONS = ("", "-journal", "-wal", "-shm")
# `used` is written when it is older than this, so that most reads write nothing.
TOUCH_SECONDS = 3600.0
KEYS_PER_QUERY = 500  # SQLite takes 999 variables at least
# The errors that a damaged file can raise; ValueError: of error messages that quote its bytes.
DAMAGE = (sqlite3.Error, OSError, ValueError, MemoryError)
# Part of every key; to be changed when a row's vector comes to mean something else.
RECIPE = b"mean of unit prompt embeddings, version 1"

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS embeddings (
    key BLOB PRIMARY KEY, vector BLOB NOT NULL, digest BLOB NOT NULL, used REAL NOT NULL);
CREATE INDEX IF NOT EXISTS embeddings_used ON embeddings (used);
COMMIT;
"""
CODE = "SELECT 1 FROM sqlite_master WHERE type NOT IN ('table', 'index')"
EVICT = """
DELETE FROM embeddings WHERE key IN (
    SELECT key FROM embeddings ORDER BY used
    LIMIT max(0, (SELECT count(*) FROM embeddings) - ?))
"""

_logger = logging.getLogger("samclip")

# Held while a file is open, and during a fork: SQLite's table of open files and its locks would
# otherwise stay in the child for ever as they were at the fork.
_open = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_open.acquire, after_in_parent=_open.release, after_in_child=_open.release
    )


def embedding_keys(space: str, templates: Sequence[str], names: Iterable[str]) -> list[bytes]:
    """Return a key for each name: the SHA-256 of recipe, text space, templates and name."""
    common = hashlib.sha256(RECIPE)
    for part in (space, *templates):
        common.update(_with_length(part))
    keys = []
    for name in names:
        digest = common.copy()
        digest.update(b"name" + _with_length(name))
        keys.append(digest.digest())
    return keys


class TextCache:
    """At most `max_rows` vectors by key; the least recently used rows are dropped first.

    Uses are recorded to the hour. Every method may be called from any thread or process; none
    raises for a file that is damaged, locked, or not writable.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        folder = open_cache(directory=directory)
        self.path = (folder or Path()) / FILE_NAME
        self._max_rows = max_rows
        self._clock = clock
        self._usable = folder is not None
        self._lock = threading.Lock()  # guards the warning

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors of the keys that are present and undamaged: key -> D float32."""
        found: dict[bytes, NDArray[np.float32]] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), KEYS_PER_QUERY):
                found.update(self._read(database, keys[start : start + KEYS_PER_QUERY]))

        self._use(read)
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Store vectors of D float32 by key, then drop the rows beyond `max_rows`."""
        now = self._clock()
        rows = []
        for key, vector in vectors.items():
            blob = np.ascontiguousarray(vector, "<f4").tobytes()
            rows.append((key, blob, _digest(key, blob), now))

        def write(database: sqlite3.Connection) -> None:
            with _write_transaction(database):
                database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)", rows)
                database.execute(EVICT, (self._max_rows,))

        self._use(write)

    def _read(
        self, database: sqlite3.Connection, keys: Sequence[bytes]
    ) -> dict[bytes, NDArray[np.float32]]:
        wanted = f"key IN ({','.join('?' * len(keys))})"
        query = f"SELECT key, vector, digest, used FROM embeddings WHERE {wanted}"  # noqa: S608 - placeholders only
        rows = [
            (key, vector, used)
            for key, vector, digest, used in database.execute(query, keys).fetchall()
            if _is_sound(key, vector, digest) and isinstance(used, float)
        ]
        now = self._clock()
        if stale := [(now, key) for key, _, used in rows if now - used > TOUCH_SECONDS]:
            with _write_transaction(database):
                database.executemany("UPDATE embeddings SET used = ? WHERE key = ?", stale)
        return {key: np.frombuffer(vector, "<f4") for key, vector, _ in rows}

    def _use(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Open the file for one piece of work; if either fails, the cache is switched off.

        With one connection for each piece of work, threads need not keep their own, and none is
        open while the process forks. While another process writes, the work is begun again.
        """
        end = time.monotonic() + BUSY_SECONDS
        while self._usable:
            try:
                with _open, closing(self._connect()) as database:
                    work(database)
                return
            except DAMAGE as error:
                if not _is_of_disk(error):
                    raise
                if not _is_busy(error) or time.monotonic() >= end:
                    self._give_up(error)
                    return
            time.sleep(TURN_SECONDS / 2)

    def _connect(self) -> sqlite3.Connection:
        self._prepare_file()
        database = sqlite3.connect(self.path, timeout=TURN_SECONDS, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = NORMAL")
            if not database.execute("PRAGMA schema_version").fetchone()[0]:
                database.executescript(SCHEMA)
            if database.execute(CODE).fetchone():  # a query of a view need not end
                raise sqlite3.DatabaseError("it has views or triggers, which samclip never makes")
        except BaseException:
            database.close()
            raise
        return database

    def _prepare_file(self) -> None:
        """Make the file if there is none; raises OSError when it may not be this user's own."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in COMPANIONS:
            check_private_file(Path(f"{self.path}{suffix}"))
        if not self.path.exists():
            with suppress(FileExistsError):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                os.close(open_without_links(self.path, flags, MODE))

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            if not self._usable:
                return
            self._usable = False
        _logger.warning(
            "text embeddings are not kept on disk: %s cannot be used (%s). Delete the file, or "
            "set %s to a directory that is writable.",
            self.path,
            str(error) or "too little memory",
            CACHE_DIR_VARIABLE,
        )


@contextmanager
def _write_transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction that holds the write lock from the start.

    A read that turns into a write later can deadlock.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:  # SQLite may have rolled back itself, e.g. on a full disk
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _is_of_disk(error: Exception) -> bool:
    """Whether the file or the disk is to blame, and not a time limit of the caller's.

    A damaged file can ask for more memory than there is; a network's file system can time out.
    """
    is_timeout = isinstance(error, TimeoutError) and error.errno is not None
    return is_timeout or isinstance(error, MemoryError) or is_library_error(error)


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _is_sound(key: object, vector: object, digest: object) -> bool:
    """Whether a row is as it was written; damage can change even the type of a column."""
    if not isinstance(key, bytes) or not isinstance(vector, bytes):
        return False
    return len(vector) % 4 == 0 and digest == _digest(key, vector)


def _digest(key: bytes, blob: bytes) -> bytes:
    return hashlib.sha256(key + blob).digest()


def _with_length(text: str) -> bytes:
    """Encode a text with its length, so that different sequences of texts differ in bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data
