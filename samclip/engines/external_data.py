"""Checks of the external data of an ONNX graph, read from its bytes without the onnx package.

OpenVINO and TensorRT open the locations that a graph names. A path may lead out of the folder, and
the location `*/_ORT_MEM_ADDR_/*` makes OpenVINO read the process's own memory at any address. So a
graph is handed to them only when every location is a file whose bytes were verified. (ONNX Runtime
is configured not to look at files at all.)

Backends find a tensor in a weights file in two ways. ONNX Runtime and OpenVINO read the range of
bytes that the graph gives. TensorRT gets each tensor by name, and looks for one that it did not get
in the current folder, whose files nobody verified. So both ways must lead to the same bytes.

Fields are numbered as in onnx.proto.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.engines.graphs.protobuf import DELIMITED, VARINT, Field, fields, malformed, varint

LOCATION = b"location"  # the key of an entry of `TensorProto.external_data`
KEY, VALUE = 1, 2  # fields of such an entry, a StringStringEntryProto
# The fields of each message through which a tensor can be reached, and the message in them.
FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}  # fmt: skip
Trail = tuple[int, ...]  # the numbers of the fields that lead to a message
MAX_DEPTH = 100  # of messages within messages, as protobuf's own parsers have it
DIMS, DATA_TYPE, NAME, ENTRY = 1, 2, 8, 13  # fields of a TensorProto
SINGLE = {DATA_TYPE: VARINT, NAME: DELIMITED}  # fields that occur once, with their wire type
INITIALIZER: Trail = (7, 5)  # the model's graph, the graph's initializer
NUMBER = re.compile(rb"[0-9]{1,18}")
MAX_RANK, MAX_SIDE = 64, 2**48  # negative ones are beyond 2**63
SHOWN = 100  # characters of a name in a message
# Bits of an element by the number of its type, as TensorProto.DataType has them; no strings.
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8,
}  # fmt: skip


def external_locations(onnx: bytes) -> set[str]:
    """Return every location of external data that a graph names.

    Raises ValueError for bytes that are not a message.
    """
    found: set[str] = set()
    for _, start, end in messages(onnx, "Entry"):
        found |= _locations(onnx, start, end)
    return found


def unlisted_location(onnx: bytes, files: Container[str]) -> str | None:
    """Return a location that a graph names and that is not among `files`; None where all are.

    Raises ValueError for bytes that may name one and are not a message.
    """
    if LOCATION not in onnx:
        return None
    return next((name for name in sorted(external_locations(onnx)) if name not in files), None)


def messages(onnx: bytes, wanted: str) -> Iterator[tuple[Trail, int, int]]:
    """Yield each message of the kind `wanted` in which `LOCATION` occurs: its trail, start and end.

    Messages without the word are skipped, so that this takes milliseconds. Raises ValueError for
    bytes that are not a message.
    """
    waiting: list[tuple[str, Trail, int, int]] = [("Model", (), 0, len(onnx))]
    while waiting:
        kind, trail, start, end = waiting.pop()
        if kind == wanted:
            yield trail, start, end
            continue
        if len(trail) > MAX_DEPTH:
            raise malformed(f"it is nested deeper than {MAX_DEPTH} messages")
        for part in fields(onnx, start, end):
            inner = FIELDS[kind].get(part.number) if part.wire == DELIMITED else None
            if inner is not None and onnx.find(LOCATION, part.begin, part.end) >= 0:
                waiting.append((inner, (*trail, part.number), part.begin, part.end))


def _locations(onnx: bytes, start: int, end: int) -> set[str]:
    """Return all values of an entry when any of its keys is "location": parsers take the last."""
    parts = [(part.number, onnx[part.begin : part.end]) for part in fields(onnx, start, end)]
    if (KEY, LOCATION) not in parts:
        return set()
    return {value.decode("utf-8", "replace") for number, value in parts if number == VALUE}


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
    """Return what is wrong with a tensor that `source` keeps in a file; None where all is well.

    `by_name`: the backend gets initializers by their names and has no files. Raises ValueError for
    bytes that are not a graph.
    """
    if LOCATION not in source.onnx:
        return None
    faults = (_fault(source, tensor, by_name) for tensor in external_tensors(source.onnx))
    return next((fault for fault in faults if fault is not None), None)


def external_tensors(onnx: bytes) -> Iterator[ExternalTensor]:
    """Yield every tensor of a graph that names a file; raises ValueError for a malformed one.

    A field that should occur once and occurs twice is malformed too: some parsers take the first,
    some the last.
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
    """Return what is wrong with a tensor's place, where `weight` must be, if it is known."""
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
    """Whether a weight equals the file's bytes in the tensor's place; most are views of it."""
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
    read = [
        (inner.number, onnx[inner.begin : inner.end])
        for inner in fields(onnx, part.begin, part.end)
    ]
    entry = dict(read)
    key = entry.get(KEY, b"")
    if len(entry) != len(read) or key in entries:
        raise malformed(f"a tensor's external data gives {_text(key)!r} twice")
    entries[key] = entry.get(VALUE, b"")


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "replace")


def _number(text: bytes, what: str) -> int:
    if not NUMBER.fullmatch(text):
        raise malformed(f"a tensor's external data has the {what} {_text(text[:SHOWN])!r}")
    return int(text)


def _size(dims: list[int], data_type: int) -> int:
    """Return how many bytes a tensor takes in a file."""
    if data_type not in BITS:
        raise malformed(f"a tensor of the type {data_type} cannot lie in a file")
    if any(side > MAX_SIDE for side in dims):
        raise malformed(f"a tensor of {len(dims)} axes has one that is negative or beyond reason")
    return -(-math.prod(dims) * BITS[data_type] // 8)
