"""Whether each tensor that a graph keeps in a weights file is one that the file has in its place.

Backends find such a tensor in two ways. ONNX Runtime and OpenVINO read the range of bytes that the
graph gives; TensorRT is handed each by its name, and looks for one that it was not handed in the
folder that the process runs in, whose files nobody verified. So both must lead to the same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.engines.external_data import KEY, LOCATION, VALUE, Trail, messages
from samclip.engines.onnx_bytes import (
    DELIMITED,
    VARINT,
    Field,
    fields,
    malformed,
    varint,
)

DIMS, DATA_TYPE, NAME, ENTRY = 1, 2, 8, 13  # fields of a TensorProto
SINGLE = {DATA_TYPE: VARINT, NAME: DELIMITED}  # those that are there once, and how they are written
INITIALIZER: Trail = (7, 5)  # fields that lead to one: the model's graph, the graph's initializer
NUMBER = re.compile(rb"[0-9]{1,18}")
MAX_RANK, MAX_SIDE = 64, 2**48  # negative ones are beyond 2**63
SHOWN = 100  # characters of a name in a message
# Bits of an element by the number of its type, as TensorProto.DataType has them; no strings.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8,
}  # fmt: skip


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose data is in a file: `size` bytes of `location`, from `offset` on.

    `length` is what the graph says that `size` is, None where it does not; `is_initializer`: of
    the graph itself, and not of an attribute, a subgraph or a sparse tensor.
    """

    name: str
    location: str
    offset: int
    length: int | None
    size: int
    is_initializer: bool


def external_fault(source: GraphSource, by_name: bool = False) -> str | None:
    """Say what is wrong with a tensor that `source` keeps in a file; None where all is well.

    `by_name`: the backend is handed initializers by their names and has no files. Raises
    ValueError for bytes that are no graph.
    """
    if LOCATION not in source.onnx:
        return None
    faults = (_fault(source, tensor, by_name) for tensor in external_tensors(source.onnx))
    return next((fault for fault in faults if fault is not None), None)


def external_tensors(onnx: bytes) -> Iterator[ExternalTensor]:
    """Give every tensor of a graph that names a file; raises ValueError for one that is malformed.

    Of what should be there once and is there twice some parsers take the first, some the last: that
    is malformed too.
    """
    for trail, start, end in messages(onnx, "Tensor"):
        tensor = _read_tensor(onnx, start, end, trail == INITIALIZER)
        if tensor is not None:
            yield tensor


def _fault(source: GraphSource, tensor: ExternalTensor, by_name: bool) -> str | None:
    name, place = repr(tensor.name[:SHOWN]), repr(tensor.location[:SHOWN])
    file, weight = source.files.get(tensor.location), source.weights.get(tensor.name)
    if file is None:
        return f"it keeps {name} in {place}, which is none of its files"
    if by_name and not tensor.is_initializer:
        return f"it keeps {name} in {place}, and only its initializers may lie there"
    if weight is None and (by_name or source.weights):
        return f"it keeps {name} in {place}, which holds no tensor of this name"
    return _misplaced(tensor, file, weight)


def _misplaced(
    tensor: ExternalTensor, file: bytes, weight: NDArray[np.generic] | None
) -> str | None:
    """Say what is wrong with the place of a tensor, where `weight` is to be, if it is known."""
    name, place, end = tensor.name[:SHOWN], tensor.location[:SHOWN], tensor.offset + tensor.size
    if tensor.length not in {None, tensor.size}:
        return (
            f"its {name!r} has {tensor.size:,} bytes by its shape, {tensor.length:,} in {place!r}"
        )
    if end > len(file):
        where = f"the bytes {tensor.offset:,} to {end:,} of {place!r}, which has {len(file):,}"
        return f"its {name!r} lies at {where}"
    if weight is not None and not _lies_at(weight, file, tensor):
        return f"its {name!r} lies at byte {tensor.offset:,} of {place!r}, where another tensor is"
    return None


def _lies_at(weight: NDArray[np.generic], file: bytes, tensor: ExternalTensor) -> bool:
    """Tell whether a weight is what the file has in the tensor's place; most are views of it."""
    if weight.nbytes != tensor.size:
        return False
    if tensor.size == 0:
        return True
    place = np.frombuffer(file, np.uint8, tensor.size, tensor.offset)
    if weight.flags.c_contiguous and weight.ctypes.data == place.ctypes.data:
        return True
    return weight.tobytes() == place.tobytes()


def _read_tensor(onnx: bytes, start: int, end: int, is_initializer: bool) -> ExternalTensor | None:
    """Read a tensor; None for one that names no file."""
    dims: list[int] = []
    entries: dict[bytes, bytes] = {}
    single: dict[int, Field] = {}
    for part in fields(onnx, start, end):
        if part.number == DIMS:
            _add_dims(dims, onnx, part)
        elif part.number == ENTRY:
            _add_entry(entries, onnx, part)
        elif part.number in SINGLE:
            if part.number in single or part.wire != SINGLE[part.number]:
                raise malformed(f"a tensor has field {part.number} twice, or of another type")
            single[part.number] = part
    if LOCATION not in entries:
        return None
    name, kind = single.get(NAME), single.get(DATA_TYPE)
    return ExternalTensor(
        name=_text(b"" if name is None else onnx[name.begin : name.end]),
        location=_text(entries[LOCATION]),
        offset=_number(entries.get(b"offset", b"0"), "offset"),
        length=_number(entries[b"length"], "length") if b"length" in entries else None,
        size=_size(dims, 0 if kind is None else kind.value),
        is_initializer=is_initializer,
    )


def _add_dims(dims: list[int], onnx: bytes, part: Field) -> None:
    """Add one axis, or several in one field."""
    if part.wire not in {VARINT, DELIMITED}:
        raise malformed("a tensor's shape is of another type")
    position = part.begin
    while position < part.end:
        if len(dims) == MAX_RANK:
            raise malformed(f"a tensor has more than {MAX_RANK} axes")
        side, position = varint(onnx, position, part.end)
        dims.append(side)


def _add_entry(entries: dict[bytes, bytes], onnx: bytes, part: Field) -> None:
    told = [
        (inner.number, onnx[inner.begin : inner.end])
        for inner in fields(onnx, part.begin, part.end)
    ]
    entry = dict(told)
    key = entry.get(KEY, b"")
    if len(entry) != len(told) or key in entries:
        raise malformed(f"a tensor's external data gives {_text(key)!r} twice")
    entries[key] = entry.get(VALUE, b"")


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "replace")


def _number(text: bytes, what: str) -> int:
    if not NUMBER.fullmatch(text):
        raise malformed(f"a tensor's external data has the {what} {_text(text[:SHOWN])!r}")
    return int(text)


def _size(dims: list[int], data_type: int) -> int:
    """Give the bytes of a tensor in a file."""
    if data_type not in BITS:
        raise malformed(f"a tensor of the type {data_type} cannot lie in a file")
    if any(side > MAX_SIDE for side in dims):
        raise malformed(f"a tensor of {len(dims)} axes has one that is negative or beyond reason")
    return -(-math.prod(dims) * BITS[data_type] // 8)
