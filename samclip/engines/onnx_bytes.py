"""The bytes of an ONNX graph taken apart, without the onnx package.

The encoding is protobuf's: before each field stands a varint with its number and wire type;
messages and strings follow their length. Fields are numbered as in onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """A field of a message; its bytes are at [begin, end), `value` is that of a varint."""

    number: int
    wire: int
    begin: int
    end: int
    value: int = 0


def fields(onnx: bytes, start: int, end: int) -> Iterator[Field]:
    """Give the fields of the message at [start, end), in order.

    Raises ValueError for bytes that are no message.
    """
    position = start
    while position < end:
        tag, begin = varint(onnx, position, end)
        number, wire, value = tag >> 3, tag & 7, 0
        if wire == VARINT:
            value, position = varint(onnx, begin, end)
        elif wire in {FIXED_64, FIXED_32}:
            position = begin + (8 if wire == FIXED_64 else 4)
        elif wire == DELIMITED:
            length, begin = varint(onnx, begin, end)
            position = begin + length
        else:  # groups, which ONNX does not have
            raise malformed(f"wire type {wire} at byte {begin}")
        if position > end:
            raise malformed(f"a field leaves its message at byte {end}")
        yield Field(number, wire, begin, position, value)


def varint(onnx: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a varint; gives its value and where it ends, raises ValueError."""
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if position + count >= end:
            break
        byte = onnx[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise malformed(f"a number does not end at byte {position}")


def malformed(reason: str) -> ValueError:
    """Make the error of bytes that are no graph."""
    return ValueError(f"its bytes are no ONNX graph, {reason}")
