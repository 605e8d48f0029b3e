"""Files of torch.save, zipped or of the older form: their tensors, read without torch's unpickler.

The pickle inside is interpreted by `pickles`, the numbers next to it are read as bytes. Every size
that a file states is compared with the bytes that it has before anything of that size is made.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.pickle_names import ForeignObjectError, PickleError
from samclip.export.checkpoints.pickles import Pickled, Storage, StoredTensor, read_pickle
from samclip.library_errors import is_library_error

MAX_PICKLE_BYTES = 2**24
MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 2**26
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Parts of the end of a zip archive: their marks, and where the count and size of entries are.
END, END_BYTES = b"PK\x05\x06", 22
LOCATOR, LOCATOR_BYTES = b"PK\x06\x07", 20
END_64, END_64_BYTES = b"PK\x06\x06", 56
MAX_COMMENT_BYTES = 2**16

SAVE_AGAIN = (
    "Save its weights alone, in the environment where it loads: "
    "torch.save(model.state_dict(), 'weights.pth')."
)
DAMAGED = "download it again, or save it again"

COUNT_BYTES = 8  # in front of each storage of the older form
# What a model's tensors may be in: numbers of weights, and those of indices and counts.
DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float32", "float16", "bfloat16", "float64"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}

ReadStorage = Callable[[Storage], bytearray]


@dataclass(frozen=True)
class TorchFile:
    """What torch.save wrote: a pickle in which tensors are descriptions, and their reader."""

    path: Path
    pickled: Pickled
    read_storage: ReadStorage

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read tensors, by key. Raises CheckpointError when one is not what it says.

        Tensors of one storage share their memory, as in the file.
        """
        storages: dict[Storage, bytearray] = {}
        found: dict[str, Tensor] = {}
        for key, stored in wanted.items():
            storage = _checked(self.path, key, stored)
            if storage not in storages:
                storages[storage] = self.read_storage(storage)
            found[key] = _view(storages[storage], stored)
        return found


@contextmanager
def open_torch(path: Path, file: BinaryIO, size: int, zipped: bool) -> Iterator[TorchFile]:
    """Read what a file of torch.save describes; its tensors are read on demand, in the block.

    Raises CheckpointError when the file is damaged, asks for more than it holds, or refers to
    anything but tensors and plain values.
    """
    try:
        if zipped:
            with zipfile.ZipFile(_with_bounded_directory(path, file, size)) as archive:
                yield _open_archive(path, archive, size)
        else:
            yield _open_legacy(path, file, size)
    except ForeignObjectError as error:
        raise CheckpointError(
            f"{path} refers to {error.name}, a Python object. Only tensors and plain values are "
            f"read, because making other objects can run code. {SAVE_AGAIN}"
        ) from error
    except PickleError as error:
        raise CheckpointError(
            f"{path} is not a readable torch checkpoint: its pickle cannot be read "
            f"({_one_line(error)}); {DAMAGED}"
        ) from error
    except (
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error),
        *(struct.error, UnicodeDecodeError),
    ) as error:
        if not is_library_error(error, "torch"):
            raise
        raise CheckpointError(
            f"{path} is not a readable torch checkpoint ({_one_line(error)}); {DAMAGED}"
        ) from error


def _open_archive(path: Path, archive: zipfile.ZipFile, size: int) -> TorchFile:
    members = {info.filename: info for info in archive.infolist()}
    pickled = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    root = pickled[0].rpartition("/")[0] if len(pickled) == 1 else ""
    _check_archive(path, archive, root)
    if len(members) != len(archive.infolist()):
        raise CheckpointError(f"{path} has two members of one name; {DAMAGED}")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise CheckpointError(
            f"{path} is a compressed archive, and torch.save compresses nothing. Unpack it and "
            "zip it without compression (zip -0), or save it again with torch."
        )
    if sum(info.file_size for info in members.values()) > size:
        raise CheckpointError(
            f"{path} states more bytes in its members than the {size:,} that it has; {DAMAGED}"
        )
    if members[pickled[0]].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path} has a pickle of {members[pickled[0]].file_size:,} bytes; at most "
            f"{MAX_PICKLE_BYTES:,} are read. {SAVE_AGAIN}"
        )
    order = f"{root}/byteorder"
    if order in members and archive.read(order).decode() != sys.byteorder:
        raise _other_byte_order(path)
    content = read_pickle(io.BytesIO(archive.read(pickled[0])))

    def read_storage(storage: Storage) -> bytearray:
        member = members.get(f"{root}/data/{storage.key}")
        if member is None or member.file_size != _bytes_of(storage):
            raise CheckpointError(
                f"{path} has {0 if member is None else member.file_size:,} bytes for a storage of "
                f"{_bytes_of(storage):,}; {DAMAGED}"
            )
        return bytearray(archive.read(member))

    return TorchFile(path, content, read_storage)


def _check_archive(path: Path, archive: zipfile.ZipFile, root: str) -> None:
    """Refuse other zip archives by name."""
    names = archive.namelist()
    if any(name == f"{root}/constants.pkl" for name in names) or any("/code/" in n for n in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program with its weights, and is not run. Save "
            "its weights alone: torch.save(torch.jit.load(file).state_dict(), 'weights.pth')."
        )
    if root:
        return
    kind = "a zip archive that torch.save did not write"
    if names and all(name.endswith(".npy") for name in names):
        kind = "an archive of NumPy arrays"
    elif any("/.data/" in name for name in names):
        kind = "an archive of torch.package, a program with its weights"
    shown = ", ".join(ascii(name)[1:-1][:60] for name in names[:3])
    raise CheckpointError(
        f"{path} is {kind}; it holds {shown or 'nothing'}. Give the checkpoint itself: unpack the "
        "archive if it is inside."
    )


def _with_bounded_directory(path: Path, file: BinaryIO, size: int) -> BinaryIO:
    """Check the stated size of an archive's directory, which zipfile reads whole."""
    tail_bytes = min(size, MAX_COMMENT_BYTES + END_BYTES + LOCATOR_BYTES)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    place = tail.rfind(END)
    if place < 0 or place + END_BYTES > len(tail):
        raise CheckpointError(
            f"{path} is not a readable torch checkpoint: its end is missing; {DAMAGED}"
        )
    count, directory = struct.unpack("<HI", tail[place + 10 : place + 16])
    locator = tail[place - LOCATOR_BYTES : place] if place >= LOCATOR_BYTES else b""
    if locator.startswith(LOCATOR):
        file.seek(min(struct.unpack("<Q", locator[8:16])[0], size))
        end = file.read(END_64_BYTES)
        if end.startswith(END_64) and len(end) == END_64_BYTES:
            count, directory = struct.unpack("<QQ", end[32:48])
    if count > MAX_MEMBERS or directory > MAX_DIRECTORY_BYTES:
        raise CheckpointError(
            f"{path} states {count:,} members; a checkpoint has at most {MAX_MEMBERS:,}. "
            f"{SAVE_AGAIN}"
        )
    file.seek(0)
    return file


def _open_legacy(path: Path, file: BinaryIO, size: int) -> TorchFile:
    """Read the older form: five pickles, then each storage as a count and its bytes."""
    start = io.BytesIO(file.read(min(size, MAX_PICKLE_BYTES)))
    if read_pickle(start).content != LEGACY_MAGIC or read_pickle(start).content != LEGACY_PROTOCOL:
        raise CheckpointError(
            f"{path} is a pickle, and not one of torch.save. Pickles can run code, so it was not "
            f"loaded. {SAVE_AGAIN}"
        )
    system, pickled, keys = (read_pickle(start) for _ in range(3))
    if not isinstance(system.content, dict) or system.content.get("little_endian", True) != (
        sys.byteorder == "little"
    ):
        raise _other_byte_order(path)
    places = _places(keys.content, pickled.storages, start.tell())

    def read_storage(storage: Storage) -> bytearray:
        place = places.get(storage.key, size)
        if place + COUNT_BYTES + _bytes_of(storage) > size:
            raise CheckpointError(f"{path} ends before its tensors do; {DAMAGED}")
        file.seek(place)
        if struct.unpack("<q", file.read(COUNT_BYTES)) != (storage.count,):
            raise CheckpointError(f"{path} states two sizes of one storage; {DAMAGED}")
        data = bytearray(_bytes_of(storage))
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise CheckpointError(f"{path} ends before its tensors do; {DAMAGED}")
        return data

    return TorchFile(path, pickled, read_storage)


def _other_byte_order(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} was saved on a machine with the other order of bytes. Load it with torch, and "
        "save it again here."
    )


def _places(keys: Any, storages: Mapping[str, Storage], start: int) -> dict[str, int]:
    """Return where each storage begins: one follows the other, in the order of `keys`."""
    places: dict[str, int] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is missing")
    for key in keys:
        if key not in storages:
            raise PickleError("its list of storages is not that of its tensors")
        places[key] = start
        start += COUNT_BYTES + _bytes_of(storages[key])
    return places


def _checked(path: Path, key: str, stored: StoredTensor) -> Storage:
    """Return a tensor's storage. Raises CheckpointError when it cannot be one of a model."""
    storage = stored.storage
    if stored.layout or storage is None:
        raise CheckpointError(
            f"{path} holds {key} as a tensor that is {stored.layout}; only dense tensors are read. "
            "Convert it (to_dense(), dequantize()) and save it again."
        )
    require_dtype(path, key, stored.dtype)
    count = math.prod(stored.size)
    last = stored.offset + sum(
        (size - 1) * stride for size, stride in zip(stored.size, stored.stride, strict=True)
    )
    held = _bytes_of(storage) // DTYPES[stored.dtype].itemsize
    if count and (count > held or last >= held):
        raise CheckpointError(
            f"{path} says that {key} has the shape {shown_shape(stored.size)}, and holds {held:,} "
            f"numbers for it; {DAMAGED}"
        )
    return storage


def require_dtype(path: Path, key: str, dtype: str) -> None:
    """Refuse a tensor in numbers that no model has. Raises CheckpointError."""
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path} holds {key} in {dtype}; weights are read in float32, float16, bfloat16 and "
            "float64. Give the original weights, or convert them."
        )


def _view(data: bytearray, stored: StoredTensor) -> Tensor:
    """Return a tensor on a storage's bytes; its sizes are those that `_checked` accepted."""
    dtype = DTYPES[stored.dtype]
    if not math.prod(stored.size):
        return torch.empty(stored.size, dtype=dtype)
    whole = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
    return whole.as_strided(stored.size, stored.stride, stored.offset)


def shown_shape(size: tuple[int, ...]) -> str:
    """Return a shape for a message, however many axes it has: "(3, 4)"."""
    axes = ", ".join(map(str, size[:8]))
    return f"({axes}{', ...' if len(size) > 8 else ''})"


def _bytes_of(storage: Storage) -> int:
    dtype: torch.dtype = getattr(torch, storage.dtype)
    return storage.count * dtype.itemsize


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:160]
