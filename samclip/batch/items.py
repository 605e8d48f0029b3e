"""Items: where the bytes of each image of a job lie, and reading them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.batch.packages import import_pyarrow
from samclip.disk.paths import is_address
from samclip.disk.user_files import open_user_file, read_user_file
from samclip.errors import ImageError
from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

MAX_GROUP_BYTES = 2**31  # of the images in a row group of parquet, which is held in memory
NOWHERE = -1
_ADVICE = "Check the input of the job."


@dataclass(frozen=True)
class Item:
    """An image of a job: its key, unique within the job, and the place of its bytes.

    `path`: a file, as the system encodes its name. `offset`, `size`: a part of it, as of a tar.
    `row`: a row of a parquet file. Both are -1 where they do not apply. `fault`: why there is
    nothing to read, as for a tar that is cut off; "" otherwise.
    """

    key: str
    path: bytes
    offset: int = NOWHERE
    size: int = NOWHERE
    row: int = NOWHERE
    fault: str = ""


def printable(name: str | bytes) -> str:
    r"""Return a file's name as text that UTF-8 has; other bytes become `\xNN`."""
    raw = os.fsencode(name)
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\0")


def item_table(items: Sequence[Item]) -> pa.Table:
    """Return items as a table, with a column for each field."""
    pa = import_pyarrow()
    kinds = (pa.string(), pa.binary(), pa.int64(), pa.int64(), pa.int64(), pa.string())
    names = [field.name for field in fields(Item)]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    columns = list(zip(*map(astuple, items), strict=True)) or [()] * len(names)
    return pa.table([list(column) for column in columns], schema=schema)


def items_of(table: pa.Table) -> list[Item]:
    """Return the items of a table that `item_table` made."""
    return [Item(**row) for row in table.to_pylist()]


class ItemReader:
    """Reads the bytes of items; `column` is that of parquet files.

    Of a parquet file the row group that was read last stays in memory, so that rows that follow
    each other are read once. Several threads may use it.
    """

    def __init__(self, column: str | None = None) -> None:
        self._column = column
        self._last: tuple[bytes, range, Any] = (b"", range(0), None)
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        """Return the bytes of an image; raises ImageError, also for more than MAX_IMAGE_BYTES."""
        if item.fault:
            raise ImageError(item.fault)
        path = Path(os.fsdecode(item.path))
        if item.row != NOWHERE:
            return self._read_row(path, item)
        if item.offset != NOWHERE:
            return _read_part(path, item)
        return _read_file(path)

    def _read_row(self, path: Path, item: Item) -> bytes:
        value = read_value(self._value(path, item), path.parent)
        if value is None:
            raise ImageError(f"row {item.row} of {path} has no image in column {self._column!r}.")
        return bytes(value)

    def _value(self, path: Path, item: Item) -> Any:
        with self._lock:
            known, rows, values = self._last
            if known != item.path or item.row not in rows:
                self._last = (b"", range(0), None)  # let the old one go before the next is read
                rows, values = self._read_group(path, item.row)
                self._last = (item.path, rows, values)
            return values[item.row - rows.start].as_py()

    def _read_group(self, path: Path, row: int) -> tuple[range, Any]:
        pa = import_pyarrow()
        try:
            with pa.parquet.ParquetFile(path) as file:
                start = group = 0
                while start + file.metadata.row_group(group).num_rows <= row:
                    start += file.metadata.row_group(group).num_rows
                    group += 1
                found = file.metadata.row_group(group)
                size = sum(
                    found.column(index).total_uncompressed_size
                    for index in range(found.num_columns)
                    if found.column(index).path_in_schema.split(".")[0] == self._column
                )
                if size > MAX_GROUP_BYTES:
                    raise ImageError(
                        f"row group {group} of {path} has {size:,} bytes in column "
                        f"{self._column!r}; at most {MAX_GROUP_BYTES:,} are read at once. Write it "
                        "in smaller row groups."
                    )
                column = file.read_row_group(group, [self._column]).column(0)
                return range(start, start + found.num_rows), column
        except (pa.ArrowException, OSError, IndexError) as error:
            raise ImageError(f"row {row} of {path} cannot be read: {error}. {_ADVICE}") from error


def read_value(value: Any, folder: Path) -> Any:
    """Return the bytes that a row's value has or leads to; pixels and None as they are.

    A text is a path, relative to `folder`. Raises ImageError, also for an address.
    """
    if isinstance(value, Mapping):  # as Hugging Face's datasets store images
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str):
        return value
    if is_address(value):
        raise ImageError(f"{value[:200]!r} is an address; nothing is fetched. Download it first.")
    return _read_file(folder / value)


def _read_file(path: Path) -> bytes:
    return read_user_file(path, MAX_IMAGE_BYTES, "the image", ImageError, _ADVICE)


def _read_part(path: Path, item: Item) -> bytes:
    """Return a part of a file; raises ImageError where the file ends before it."""
    if item.size > MAX_IMAGE_BYTES:
        raise ImageError(
            f"{item.key} has {item.size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read of an image."
        )
    with open_user_file(path, "the archive", ImageError, _ADVICE) as (file, _):
        file.seek(item.offset)
        data = file.read(item.size)
    if len(data) < item.size:
        raise ImageError(
            f"{path} ends after {len(data):,} of the {item.size:,} bytes of {item.key}. Copy the "
            "archive again."
        )
    return data
