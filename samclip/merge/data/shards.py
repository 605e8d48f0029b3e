"""Photos in WebDataset shards, plain tar files with image members, and their decoding.

A shard is read once to list its members. The list is stored next to it, and photos are then read at
their offsets, in any order, by any number of processes. `decode_photo` serves folders of photos as
well.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import remove_abandoned, write_file
from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.errors import ImageError, InputError
from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES, decode_bytes
from samclip.runtime.pixels.image import SUFFIXES
from samclip.runtime.pixels.limits import DEFAULT_MAX_PIXELS

INDEX_SUFFIX = ".samclip-index.json"
INDEX_VERSION = 1
MAX_INDEX_BYTES = 2**26
MAX_MEMBERS = 200_000  # of one shard; usual shards have some 10,000


def decode_photo(
    data: bytes, name: str, longest: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a file's bytes to HWC uint8 RGB, as `decode_bytes` does; raises ImageError.

    `longest`: large JPEG files are decoded at a smaller size, never below it.
    """
    return decode_bytes(data, max_pixels, name, longest=longest)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A photo inside a shard: the offset of its bytes, their number, their SHA-256."""

    offset: int
    size: int
    sha256: str


class ShardIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The photos of a shard that had `size` bytes and was last changed at `mtime_ns`."""

    version: int
    size: int
    mtime_ns: int
    members: tuple[Member, ...]


class ShardSource:
    """The photos of tar shards, in the order of the shards given and of the members in each.

    Members with the same bytes count once. `longest`: see `decode_photo`. Raises InputError for a
    shard that is missing, damaged or compressed, or that holds a member that no honest shard has:
    an absolute path, a path that leaves the archive, a link, a device, a photo of too many bytes.
    """

    def __init__(self, shards: Sequence[str | Path], longest: int | None = None) -> None:
        self._longest = longest
        found: dict[str, tuple[Path, Member]] = {}
        for shard in (user_path(given, "the shard") for given in shards):
            for member in shard_index(shard).members:
                found.setdefault(member.sha256, (shard, member))
        if not found:
            raise InputError(
                f"{len(shards)} shards hold no image; give tar files with .jpg members"
            )
        self._keys = tuple(found)
        self._places = tuple(found.values())

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the SHA-256 of a photo's file."""
        return self._keys[index]

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Decode a photo: HWC uint8 RGB. Raises ImageError, also for a shard that changed."""
        shard, member = self._places[index]
        with shard.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise ImageError(f"the shard {shard} changed since it was listed; start again")
        return decode_photo(data, f"the photo at byte {member.offset:,} of {shard}", self._longest)


def shard_index(shard: Path) -> ShardIndex:
    """List a shard's photos, from the stored list when that is current, else by reading the shard.

    A new list is stored next to the shard. Where the folder is not writable, the shard is listed
    again next time. Raises InputError.
    """
    if not shard.is_file():
        raise InputError(f"there is no shard {shard}; give an existing tar file")
    status = shard.stat()
    file = shard.with_name(shard.name + INDEX_SUFFIX)
    stored = _read_index(file)
    changed = (status.st_size, status.st_mtime_ns)
    if stored is not None and (stored.size, stored.mtime_ns) == changed:
        return stored
    index = ShardIndex(INDEX_VERSION, *changed, tuple(_list_members(shard)))
    remove_abandoned(file.parent, {file.name})
    with contextlib.suppress(OSError):  # a read-only data set
        write_file(file, msgspec.json.encode(index))
    return index


def _list_members(shard: Path) -> Iterator[Member]:
    """Read a shard from start to end; raises InputError for members that no honest shard has."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for count, info in enumerate(tar):
                _check_member(info, count, shard)
                if info.isfile() and PurePosixPath(info.name).suffix.lower() in SUFFIXES:
                    content = tar.extractfile(info)
                    data = b"" if content is None else content.read()
                    if len(data) != info.size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield Member(info.offset_data, info.size, hashlib.sha256(data).hexdigest())
    except tarfile.TarError as error:
        raise InputError(
            f"the shard {shard} cannot be read as a plain tar file: {error}. Copy it again; a "
            "compressed one must be unpacked."
        ) from error


def _check_member(info: tarfile.TarInfo, count: int, shard: Path) -> None:
    path = PurePosixPath(info.name)
    reason = ""
    if path.is_absolute() or ".." in path.parts:
        reason = "its path leaves the archive"
    elif not (info.isfile() or info.isdir()):
        reason = "it is neither a file nor a folder"
    elif info.issparse():
        reason = "it is a sparse file"
    elif info.size > MAX_IMAGE_BYTES:
        reason = f"it has {info.size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read"
    elif count >= MAX_MEMBERS:
        reason = f"it is beyond the first {MAX_MEMBERS:,} members, the most that are read"
    if reason:
        raise InputError(f"the shard {shard} holds {info.name!r:.80}, which is refused: {reason}")


def _read_index(file: Path) -> ShardIndex | None:
    """Read a stored list; None when it is missing, damaged or of another version."""
    try:
        data = read_user_file(file, MAX_INDEX_BYTES, "the list of a shard")
        index = msgspec.json.decode(data, type=ShardIndex)
    except (InputError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    inside = all(
        member.offset >= 0 and 0 <= member.size <= MAX_IMAGE_BYTES for member in index.members
    )
    return index if inside and index.version == INDEX_VERSION else None
