"""Protobuf's wire format, read without copying and within bounds.

Before each field comes a varint with its number and wire type; messages and strings follow their
length. A message is read into a list of fields at once, because that is several times quicker than
a generator of them. All functions raise ValueError for bytes that are not a message.
"""

from __future__ import annotations

from typing import NamedTuple

VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
MAX_FIELDS = 200_000  # of one message; the largest graphs that we write have a tenth


Part = tuple[int, int, int, int, int]  # the parts of a `Field`


class Field(NamedTuple):
    """A field of a message; its bytes are at [begin, end), `value` is that of a varint."""

    number: int
    wire: int
    begin: int
    end: int
    value: int


def fields(data: bytes, start: int, end: int) -> list[Field]:
    """Return the fields of the message at [start, end), in order."""
    return [Field(*part) for part in scan(data, start, end)]


def scan(data: bytes, start: int, end: int) -> list[Part]:
    """Return the same as `fields`, as plain tuples."""
    found: list[Part] = []
    add = found.append
    position = start
    while position < end:
        tag = data[position]
        begin = position + 1
        if tag >= 0x80:
            tag, begin = varint(data, position, end)
        wire = tag & 7
        if wire == DELIMITED:
            if begin >= end:
                raise malformed(f"a field has no length at byte {begin}")
            length = data[begin]
            begin += 1
            if length >= 0x80:
                length, begin = varint(data, begin - 1, end)
            position = begin + length
            value = 0
        elif wire == VARINT:
            if begin >= end:
                raise malformed(f"a field has no value at byte {begin}")
            value = data[begin]
            position = begin + 1
            if value >= 0x80:
                value, position = varint(data, begin, end)
        elif wire in {FIXED_64, FIXED_32}:
            value, position = 0, begin + (8 if wire == FIXED_64 else 4)
        else:  # groups, which ONNX does not have
            raise malformed(f"wire type {wire} at byte {begin}")
        if position > end:
            raise malformed(f"a field leaves its message at byte {end}")
        add((tag >> 3, wire, begin, position, value))
        if len(found) > MAX_FIELDS:
            raise malformed(f"a message has more than {MAX_FIELDS:,} fields")
    return found


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a varint's value and the position after it."""
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if position + count >= end:
            break
        byte = data[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise malformed(f"a number does not end at byte {position}")


def varints(data: bytes, start: int, end: int) -> list[int]:
    """Return the varints that fill [start, end): a packed field, or a single number."""
    found = []
    while start < end:
        value, start = varint(data, start, end)
        found.append(value)
    return found


def signed(value: int) -> int:
    """Return the int64 that a varint stands for; ValueError beyond 64 bits."""
    if value >= 2**64:
        raise malformed("a number has more than 64 bits")
    return value - 2**64 if value >= 2**63 else value


def malformed(reason: str) -> ValueError:
    """Return the error of bytes that are not a graph."""
    return ValueError(f"its bytes are not an ONNX graph, {reason}")
