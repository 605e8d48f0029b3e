"""Files of weights, opened: their names first, and their tensors on demand.

The content of a file decides its format. Sizes that it states are compared with its bytes before
anything of that size is made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from samclip.disk.safe_names import find_name_fault
from samclip.disk.user_files import open_user_file, read_user_file
from samclip.errors import CheckpointError
from samclip.export.checkpoints.fetch import stream_sha256
from samclip.export.checkpoints.file_kinds import (
    MAX_HEADER_BYTES,
    SAFETENSORS_HEADER,
    describe_foreign,
    read_head,
    sniff,
)
from samclip.export.checkpoints.pickles import Arguments, StoredTensor
from samclip.export.checkpoints.state_dicts import MAX_TENSORS, flatten
from samclip.export.checkpoints.torch_files import TorchFile, open_torch, require_dtype
from samclip.export.checkpoints.weights_paths import INDEX_SUFFIX

WHAT = "the checkpoint"
MAX_WEIGHTS_BYTES = 2**34  # 16 GB in one file; SAM ViT-H has 2.5
MAX_INDEX_BYTES = 2**25
MAX_SHARDS = 1000
LEAST_HOLE = 2**24  # bytes of holes that are looked for


class WeightsFile(Protocol):
    """Open weights: their names, and their tensors on demand."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of a safetensors header; empty for other formats."""

    @property
    def passed_over(self) -> Collection[str]:
        """The kinds of values that the file holds besides tensors and that are not read."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The attributes of a training's `args`, an argparse.Namespace; none in other formats."""

    @property
    def names(self) -> Collection[str]:
        """The dotted names of all tensors in the file."""

    def tensors(self, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        """Read tensors: `wanted` has the file's name for each name. Raises CheckpointError."""

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors of the file are equal."""

    def sha256(self) -> str:
        """Return the SHA-256 of all bytes, lowercase hexadecimal."""


def digest_weights(file: Path) -> str:
    """Return the SHA-256 of a file of weights, or of all files of an index of shards."""
    with ExitStack() as stack:
        if file.name.endswith(INDEX_SUFFIX):
            return _open_shards(file, stack).sha256()
        opened, _ = stack.enter_context(open_user_file(file, WHAT, CheckpointError))
        return _sha256(opened)


@contextmanager
def open_weights(path: Path) -> Iterator[WeightsFile]:
    """Open the weights at a path that `find_weights` returned, for the block.

    Raises CheckpointError when they are not weights, cannot be read, or change meanwhile.
    """
    with ExitStack() as stack:
        if path.name.endswith(INDEX_SUFFIX):
            yield _open_shards(path, stack)
        else:
            yield _open_one(path, stack)


def _open_one(path: Path, stack: ExitStack) -> WeightsFile:
    file, size = stack.enter_context(open_user_file(path, WHAT, CheckpointError))
    stack.enter_context(_unchanged(path, file))
    if size > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes; at most {MAX_WEIGHTS_BYTES:,} are read from one file"
        )
    head = read_head(file)
    kind = sniff(head, size)
    _require_no_holes(path, file, size)
    if kind == "safetensors":
        return _Safetensors(path, file, stack)
    if kind is None:
        format_ = "valid safetensors file" if path.suffix == ".safetensors" else "checkpoint"
        raise CheckpointError(f"{path} is not a {format_}: {describe_foreign(path, head, size)}")
    opened = stack.enter_context(open_torch(path, file, size, kind == "torch zip"))
    return _Torch(opened, file)


@contextmanager
def _unchanged(path: Path, file: BinaryIO) -> Iterator[None]:
    """Refuse what was read from a file that changed in the block."""
    before = _identity(os.fstat(file.fileno()))
    yield
    try:
        changed = _identity(os.fstat(file.fileno())) != before or _identity(path.stat()) != before
    except OSError:
        changed = True
    if changed:
        raise CheckpointError(
            f"{path} changed while it was read; try again when nothing writes to it"
        )


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _require_no_holes(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse a file that is mostly holes, as downloads that reserve their place first leave."""
    if size < LEAST_HOLE or not hasattr(os, "SEEK_HOLE"):
        return
    data, place = 0, 0
    try:
        for _ in range(10_000):
            place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            end = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            data, place = data + end - place, end
            if place >= size or data * 2 > size:
                break
    except OSError:  # ENXIO: no more data
        pass
    finally:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
    if data * 2 < size:
        raise CheckpointError(
            f"{path} has {size:,} bytes, and only {data:,} of them were ever written: an "
            "unfinished download. Download it again."
        )


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return stream_sha256(file)


class _Torch:
    """A file of torch.save."""

    metadata: Mapping[str, str] = {}

    def __init__(self, opened: TorchFile, file: BinaryIO) -> None:
        self._opened, self._file = opened, file
        self.passed_over: Collection[str] = opened.pickled.passed_over
        try:
            self._stored = flatten(opened.pickled.content, StoredTensor)
        except CheckpointError as error:
            raise CheckpointError(f"{opened.path} is not read: {error}") from error
        kind = type(opened.pickled.content).__name__
        if kind != "dict" or not self._stored:
            found = "no tensors" if kind == "dict" else f"a {kind}"
            raise CheckpointError(
                f"{opened.path} holds {found}, expected a dictionary of a model's tensors; save "
                "the model's state_dict()"
            )
        given = opened.pickled.content.get("args")
        self.arguments: Mapping[str, Any] = given.values if isinstance(given, Arguments) else {}

    @property
    def names(self) -> Collection[str]:
        return self._stored

    def tensors(self, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        return self._opened.tensors({name: self._stored[key] for name, key in wanted.items()})

    def same(self, one: str, other: str) -> bool:
        first, second = self._stored[one], self._stored[other]
        place = (first.storage, first.offset, first.size, first.stride)
        if place == (second.storage, second.offset, second.size, second.stride):
            return True
        return first.size == second.size and _equal(self.tensors({"a": one, "b": other}))

    def sha256(self) -> str:
        return _sha256(self._file)


class _Safetensors:
    """A safetensors file."""

    passed_over: Collection[str] = ()
    arguments: Mapping[str, Any] = {}

    def __init__(self, path: Path, file: BinaryIO, stack: ExitStack) -> None:
        self._path, self._file = path, file
        header = int.from_bytes(file.read(SAFETENSORS_HEADER), "little")
        if header > MAX_HEADER_BYTES:
            raise self._invalid(f"its header has {header:,} bytes, at most {MAX_HEADER_BYTES:,}")
        try:
            self._open: Any = stack.enter_context(safe_open(path, framework="pt"))
            self._names: tuple[str, ...] = tuple(self._open.keys())
            self.metadata: Mapping[str, str] = self._open.metadata() or {}
        except SafetensorError as error:
            raise self._invalid(error) from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if len(self._names) > MAX_TENSORS:
            raise self._invalid(f"it holds {len(self._names):,} tensors, at most {MAX_TENSORS:,}")

    def _invalid(self, reason: object) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is not a valid safetensors file ({str(reason)[:200]}); download it again"
        )

    @property
    def names(self) -> Collection[str]:
        return self._names

    def tensors(self, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        found = {}
        for name, key in wanted.items():
            try:
                tensor: Tensor = self._open.get_tensor(key)
            except (SafetensorError, AttributeError, KeyError, TypeError) as error:
                raise self._invalid(error) from error
            require_dtype(self._path, key, str(tensor.dtype).removeprefix("torch."))
            found[name] = tensor
        return found

    def same(self, one: str, other: str) -> bool:
        return _equal(self.tensors({"a": one, "b": other}))

    def sha256(self) -> str:
        return _sha256(self._file)


def _equal(two: Mapping[str, Tensor]) -> bool:
    return torch.equal(two["a"], two["b"])


class _Shards:
    """Weights in several files, with an index that says which file has which tensor."""

    passed_over: Collection[str] = ()
    arguments: Mapping[str, Any] = {}

    def __init__(
        self, index: bytes, files: Mapping[str, WeightsFile], places: Mapping[str, str]
    ) -> None:
        self.metadata: Mapping[str, str] = {}
        self._index, self._files, self._places = index, files, places

    @property
    def names(self) -> Collection[str]:
        return self._places

    def tensors(self, wanted: Mapping[str, str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for shard, file in self._files.items():
            found |= file.tensors({n: k for n, k in wanted.items() if self._places[k] == shard})
        return found

    def same(self, one: str, other: str) -> bool:
        return _equal(self.tensors({"a": one, "b": other}))

    def sha256(self) -> str:
        """Return a digest of the index and of every file's digest."""
        digest = hashlib.sha256(self._index)
        for name in sorted(self._files):
            digest.update(f"{name} {self._files[name].sha256()}\n".encode())
        return digest.hexdigest()


class _Index(msgspec.Struct):
    """The used part of an index of shards."""

    weight_map: dict[str, str]


def _open_shards(path: Path, stack: ExitStack) -> WeightsFile:
    """Open the files of an index. Raises CheckpointError when one is missing or another."""
    data = read_user_file(path, MAX_INDEX_BYTES, WHAT, CheckpointError)
    try:
        places = msgspec.json.decode(data, type=_Index).weight_map
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not an index of weights in shards: {error}; download it again"
        ) from error
    names = sorted(set(places.values()))
    if not names or len(names) > MAX_SHARDS:
        raise CheckpointError(f"{path} names {len(names):,} files; expected 1 to {MAX_SHARDS:,}")
    for name in names:
        if fault := find_name_fault(name):
            raise CheckpointError(
                f"{path} names the file {name[:80]!a}, which {fault}; expected files in its folder"
            )
    if missing := [name for name in names if not path.with_name(name).exists()]:
        raise CheckpointError(
            f"{path} names {len(names)} files, and {', '.join(missing[:6])} "
            f"{'is' if len(missing) == 1 else 'are'} missing next to it; download them too"
        )
    files = {name: _open_one(path.with_name(name), stack) for name in names}
    held = {key: name for name, file in files.items() for key in file.names}
    if held.keys() != places.keys() or any(held[key] != name for key, name in places.items()):
        raise CheckpointError(
            f"{path} does not fit the files that it names: they hold other tensors. Download all "
            "of them again."
        )
    return _Shards(data, files, places)
