"""Weights as a safetensors byte string, read without copying and written aligned.

The format (safetensors' format description): 8 bytes, little-endian length of the header; the
header, a JSON object `{name: {"dtype", "shape", "data_offsets": [begin, end]}}` with offsets from
the end of the header, spaces allowed after it; the tensors, C order, little-endian, no holes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.errors import ExportError, IntegrityError

MAX_HEADER_BYTES = 1_000_000  # about 100 bytes per tensor, and about 500 tensors per model
ALIGNMENT = 64  # bytes: the tensors begin at a multiple of it
LENGTH_BYTES = 8
MAX_ELEMENTS = 2**48
METADATA = "__metadata__"
DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
        "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    }.items()
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_ELEMENTS)]


NO_METADATA: Mapping[str, str] = MappingProxyType({})


class TensorFileError(ValueError):
    """What is wrong with a safetensors byte string, as words that can follow a colon."""


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor's entry in the header; `data_offsets` count from the end of the header."""

    dtype: str
    shape: Annotated[tuple[Length, ...], msgspec.Meta(max_length=16)]
    data_offsets: tuple[Length, Length]


def parse_weights(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Return every tensor of a safetensors byte string as a read-only view into `data`.

    A tensor that is not aligned to its dtype is copied instead; `serialise_weights` writes none.
    Raises IntegrityError on anything but a valid file: a header that is too long or
    malformed, an unknown dtype, offsets that overlap, leave holes, leave the file or contradict
    the shape.
    """
    with _as_integrity_error():
        return parse_tensors(data)[0]


def parse_tensors(
    data: bytes, max_header: int = MAX_HEADER_BYTES
) -> tuple[dict[str, NDArray[np.generic]], dict[str, str]]:
    """Return the tensors, as `parse_weights` does, and the metadata, empty where there is none.

    Raises TensorFileError on anything but a valid file with a header of up to `max_header` bytes.
    """
    start, header, metadata = _read_header(data, max_header)
    return {name: _view(data, start, info) for name, info in header.items()}, metadata


def weight_offsets(data: bytes) -> dict[str, tuple[int, int]]:
    """Return every tensor's (offset, length) in bytes from the start of `data`.

    They are the `offset` and `length` of ONNX external data. Raises IntegrityError as
    `parse_weights` does.
    """
    with _as_integrity_error():
        start, header, _ = _read_header(data, MAX_HEADER_BYTES)
    return {
        name: (start + info.data_offsets[0], info.data_offsets[1] - info.data_offsets[0])
        for name, info in header.items()
    }


def serialise_weights(
    arrays: Mapping[str, NDArray[np.generic]],
    metadata: Mapping[str, str] = NO_METADATA,
    max_header: int = MAX_HEADER_BYTES,
) -> bytes:
    """Serialise arrays as safetensors; the same arrays always give the same bytes.

    Tensors are ordered by descending item size, then by name, and the header is padded with
    spaces so that they begin at a multiple of 64 bytes: each is then aligned to its dtype.
    Raises ExportError for a dtype that the format or numpy does not have.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, TensorInfo | Mapping[str, str]] = {METADATA: metadata} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = TensorInfo(_dtype_name(name, arrays[name]), arrays[name].shape, (begin, end))
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-(LENGTH_BYTES + len(encoded)) % ALIGNMENT)
    if len(encoded) > max_header:
        raise ExportError(
            f"the header of {len(order):,} tensors has {len(encoded):,} bytes; at most "
            f"{max_header:,} are allowed. Use shorter names or fewer tensors."
        )
    parts = [len(encoded).to_bytes(LENGTH_BYTES, "little"), encoded]
    return b"".join([*parts, *(_little_endian(arrays[name]) for name in order)])


def _dtype_name(name: str, array: NDArray[np.generic]) -> str:
    dtype = array.dtype.newbyteorder("<")
    if name == METADATA or dtype not in DTYPE_NAMES:
        raise ExportError(
            f"weights cannot hold {name!r} of dtype {array.dtype}. "
            f"Use another name than {METADATA} and one of the dtypes {', '.join(DTYPES)}."
        )
    return DTYPE_NAMES[dtype]


def _little_endian(array: NDArray[np.generic]) -> memoryview:
    plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return plain.reshape(-1).view(np.uint8).data


def _read_header(data: bytes, max_header: int) -> tuple[int, dict[str, TensorInfo], dict[str, str]]:
    """Return the offset at which the tensors begin, the header's entries, and the metadata."""
    if len(data) < LENGTH_BYTES:
        raise TensorFileError(
            f"it has {len(data)} bytes, fewer than the {LENGTH_BYTES} of a length"
        )
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    if length > max_header or start > len(data):
        raise TensorFileError(
            f"its header claims {length:,} bytes of a file of {len(data):,}, "
            f"at most {max_header:,} are accepted"
        )
    header, metadata = _decode_header(data[LENGTH_BYTES:start])
    _check_layout(header, len(data) - start)
    return start, header, metadata


def _decode_header(encoded: bytes) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        raw = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
        metadata: dict[str, str] = {}
        if METADATA in raw:
            metadata = msgspec.json.decode(raw.pop(METADATA), type=dict[str, str])
        entries = {name: msgspec.json.decode(entry, type=TensorInfo) for name, entry in raw.items()}
        return entries, metadata
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TensorFileError(f"its header is malformed: {error}") from error


def _check_layout(header: Mapping[str, TensorInfo], size: int) -> None:
    """Check that the tensors, in the order of their offsets, tile the `size` bytes of data."""
    position = 0
    for name, info in sorted(header.items(), key=lambda item: item[1].data_offsets):
        begin, end = info.data_offsets
        if begin != position or end < begin:
            raise TensorFileError(
                f"{name!r} lies at bytes {begin:,}-{end:,}, expected at {position:,}"
            )
        if info.dtype not in DTYPES:
            raise TensorFileError(
                f"{name!r} has dtype {info.dtype!r}, expected one of {', '.join(DTYPES)}"
            )
        if math.prod(side or 1 for side in info.shape) > MAX_ELEMENTS:  # numpy refuses it too
            raise TensorFileError(f"{name!r} has the impossible shape {list(info.shape)}")
        expected = math.prod(info.shape) * DTYPES[info.dtype].itemsize
        if end - begin != expected:
            raise TensorFileError(
                f"{name!r} has {end - begin:,} bytes, but {info.dtype} of shape "
                f"{list(info.shape)} needs {expected:,}"
            )
        position = end
    if position != size:
        raise TensorFileError(f"its tensors end at byte {position:,} of {size:,}")


def _view(data: bytes, start: int, info: TensorInfo) -> NDArray[np.generic]:
    dtype = DTYPES[info.dtype]
    count = math.prod(info.shape)
    if count == 0:
        flat = np.empty(0, dtype)  # frombuffer refuses an empty range at the very end
    else:
        flat = np.frombuffer(data, dtype, count, start + info.data_offsets[0])
    array = flat.reshape(info.shape)
    return array if array.flags.aligned else array.copy()


@contextmanager
def _as_integrity_error() -> Iterator[None]:
    try:
        yield
    except TensorFileError as fault:
        raise IntegrityError(
            f"the weights are not a valid safetensors file: {fault}. Copy or export the bundle "
            "again."
        ) from fault
