"""Where an ONNX graph says that its weights lie: read off its bytes, without the onnx package.

OpenVINO and TensorRT follow what stands there. A path may lead out of the folder, and the location
`*/_ORT_MEM_ADDR_/*` makes OpenVINO read the process's own memory at any address. So a graph is
handed to them only when every location is a file whose bytes were verified. (ONNX Runtime is told
not to look at files at all.)

Fields are numbered as in onnx.proto; the encoding is protobuf's: a varint holds field number and
wire type, and messages and strings follow their length.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

LOCATION = b"location"  # the key of an entry of `TensorProto.external_data`
KEY, VALUE = 1, 2  # fields of such an entry, a StringStringEntryProto

# Of each message, the fields through which a tensor can be reached, and the message in them.
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
VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


def external_locations(onnx: bytes) -> set[str]:
    """Give every location of external data that a graph names.

    Only messages that hold the word are looked into, so that this takes milliseconds. Raises
    ValueError for bytes that are no message.
    """
    found: set[str] = set()
    waiting = [("Model", 0, len(onnx))]
    while waiting:
        kind, start, end = waiting.pop()
        if kind == "Entry":
            found |= _locations(onnx, start, end)
            continue
        for number, begin, stop in _parts(onnx, start, end):
            inner = FIELDS[kind].get(number)
            if inner is not None and onnx.find(LOCATION, begin, stop) >= 0:
                waiting.append((inner, begin, stop))
    return found


def unlisted_location(onnx: bytes, files: Container[str]) -> str | None:
    """Give a location that a graph names and that is not among `files`; None where all are.

    Raises ValueError for bytes that may name one and are no message.
    """
    if LOCATION not in onnx:
        return None
    return next((name for name in sorted(external_locations(onnx)) if name not in files), None)


def _locations(onnx: bytes, start: int, end: int) -> set[str]:
    """Give all values of one entry when any of its keys is "location": parsers take the last."""
    parts = [(number, onnx[begin:stop]) for number, begin, stop in _parts(onnx, start, end)]
    if (KEY, LOCATION) not in parts:
        return set()
    return {value.decode("utf-8", "replace") for number, value in parts if number == VALUE}


def _parts(onnx: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Give number, start and end of each field of a message that has a length."""
    position = start
    while position < end:
        tag, position = _varint(onnx, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            _, position = _varint(onnx, position, end)
        elif wire in {FIXED_64, FIXED_32}:
            position += 8 if wire == FIXED_64 else 4
        elif wire == DELIMITED:
            length, begin = _varint(onnx, position, end)
            position = begin + length
            if position <= end:
                yield number, begin, position
        else:  # groups, which ONNX does not have
            raise _malformed(f"wire type {wire} at byte {position}")
        if position > end:
            raise _malformed(f"a field leaves its message at byte {end}")


def _varint(onnx: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a varint; gives its value and where it ends."""
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if position + count >= end:
            break
        byte = onnx[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise _malformed(f"a number does not end at byte {position}")


def _malformed(reason: str) -> ValueError:
    return ValueError(f"its bytes are no ONNX graph, {reason}")
