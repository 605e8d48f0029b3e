"""A graph as its bytes spell it: nodes, stored tensors, inputs and outputs, each within bounds.

Fields are numbered as in onnx.proto. A field that is not in the tables here is refused, and so is
one that occurs twice where one is meant: some parsers take the first, some the last, some merge
them. That leaves out local functions, training, subgraphs, sparse tensors, sequences, maps and
optional types. All functions raise ValueError.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.engines.graphs.protobuf import (
    DELIMITED,
    FIXED_32,
    MAX_VARINT_BYTES,
    VARINT,
    Part,
    malformed,
    scan,
    signed,
    varint,
    varints,
)

MAX_GRAPH_BYTES = 2**24  # without weights files; samclip-tiny's encoder has 0.2 MB
MAX_NODES = 8192  # ViT-H at 1024 px has some 4,000 in INT8
MAX_STORED = 8192  # tensors
MAX_VALUES = 2 * (MAX_NODES + MAX_STORED)  # descriptions of intermediates
MAX_PORTS = 64  # inputs of the graph, and outputs
MAX_OPERANDS = 256  # inputs of a node, and outputs
MAX_ATTRIBUTES = 32  # of a node
MAX_NUMBERS = 64  # in an attribute
MAX_RANK = 8
MAX_NAME = 512  # bytes
MAX_SIDE = 2**31 - 1
SHOWN = 80  # characters of a name in a message

# The wire type of each field that a message may have, and which of them may be repeated.
MODEL = {1: VARINT, 2: DELIMITED, 3: DELIMITED, 4: DELIMITED, 5: VARINT, 6: DELIMITED,
         7: DELIMITED, 8: DELIMITED, 14: DELIMITED}  # fmt: skip
OPSET = {1: DELIMITED, 2: VARINT}
GRAPH = {1: DELIMITED, 2: DELIMITED, 5: DELIMITED, 10: DELIMITED, 11: DELIMITED, 12: DELIMITED,
         13: DELIMITED, 16: DELIMITED}  # fmt: skip
NODE = {1: DELIMITED, 2: DELIMITED, 3: DELIMITED, 4: DELIMITED, 5: DELIMITED, 6: DELIMITED,
        7: DELIMITED, 9: DELIMITED}  # fmt: skip
NAMES = (3, 4, 7)  # of a node, its operator and the operator's domain
VALUE = {1: DELIMITED, 2: DELIMITED, 3: DELIMITED, 4: DELIMITED}
TENSOR_FIELDS = {1: VARINT, 2: VARINT, 8: DELIMITED, 9: DELIMITED, 12: DELIMITED, 13: DELIMITED,
                 14: VARINT, 16: DELIMITED}  # fmt: skip
ATTRIBUTE = {1: DELIMITED, 2: FIXED_32, 3: VARINT, 4: DELIMITED, 5: DELIMITED, 8: VARINT,
             13: DELIMITED, 20: VARINT}  # fmt: skip
# What other fields mean, for messages.
MEANINGS = {
    "model": {20: "training", 25: "local functions", 26: "device configurations"},
    "graph": {14: "quantisation annotations", 15: "sparse tensors"},
    "node": {8: "an overload", 10: "device configurations"},
    "attribute": {6: "a subgraph", 7: "lists of fractions", 9: "lists of strings",
                  10: "lists of tensors", 11: "subgraphs", 14: "a type", 15: "types",
                  21: "a reference to a function", 22: "a sparse tensor", 23: "sparse tensors"},
    "tensor": {3: "segments", 6: "strings", 4: "its numbers in a list", 5: "its numbers in a list",
               7: "its numbers in a list", 10: "its numbers in a list",
               11: "its numbers in a list"},
    "type": {4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional value"},
}  # fmt: skip
# The types of elements that a graph may have: numpy's name, the bytes of one.
DTYPES: Mapping[int, tuple[str, int]] = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 6: ("int32", 4), 7: ("int64", 8),
    9: ("bool", 1), 10: ("float16", 2), 16: ("bfloat16", 2),
}  # fmt: skip
FLOAT, UINT8, INT8, INT32, INT64, BOOL, HALF, BFLOAT = 1, 2, 3, 6, 7, 9, 10, 16
NUMPY = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4", INT64: "<i8", BOOL: "?", HALF: "<f2"}
EXTERNAL = 1  # of `TensorProto.data_location`


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A tensor of numbers that the graph holds: in `data`, or in a file, where that is None."""

    name: str
    dtype: int
    dims: tuple[int, ...]
    data: memoryview | None

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.dims)

    def numbers(self) -> NDArray[np.generic] | None:
        """Return its elements, flat; None for those in a file, and of a type that numpy lacks."""
        if self.data is None or self.dtype not in NUMPY:
            return None
        return np.frombuffer(self.data, NUMPY[self.dtype])


Dims = tuple[int | str | None, ...] | None
Attribute = int | float | str | tuple[int, ...] | Stored


class Port(msgspec.Struct, frozen=True, gc=False):
    """A declared input, output or intermediate: dimensions are numbers, names, or unknown."""

    name: str
    dtype: int
    dims: Dims


class Node(msgspec.Struct, frozen=True, gc=False):
    """One operator; `operator` has its domain before it, unless that is ONNX's own."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


class ParsedGraph(msgspec.Struct, frozen=True, gc=False):
    """All of a model that engines read; `opsets` maps domains to versions."""

    opsets: Mapping[str, int]
    nodes: tuple[Node, ...]
    stored: tuple[Stored, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    values: tuple[Port, ...]


class Known(NamedTuple):
    """Parts that were read before, by their bytes: most occur many times in a graph."""

    attributes: dict[bytes, tuple[str, Attribute]]
    types: dict[bytes, tuple[int, Dims]]


def parse_model(data: bytes) -> ParsedGraph:
    """Parse the bytes of a model; raises ValueError for what is malformed or beyond bounds."""
    if len(data) > MAX_GRAPH_BYTES:
        raise ValueError(
            f"it has {len(data):,} bytes, at most {MAX_GRAPH_BYTES:,} are accepted: weights belong "
            "into a weights file"
        )
    graph: tuple[int, int] | None = None
    opsets: dict[str, int] = {}
    once: set[int] = set()
    for number, wire, begin, end, _ in scan(data, 0, len(data)):
        _check("model", MODEL, number, wire, once, repeated=(8, 14))
        if number == 7:
            graph = (begin, end)
        elif number == 8:
            domain, version = _opset(data, begin, end)
            if domain in opsets:
                raise malformed(f"it imports the operators of {domain!r} twice")
            opsets[domain] = version
    if graph is None:
        raise malformed("it has no graph")
    return _graph(data, *graph, opsets)


def _check(
    what: str,
    known: Mapping[int, int],
    number: int,
    wire: int,
    once: set[int],
    repeated: tuple[int, ...],
) -> None:
    """Refuse a field that is unknown, of another wire type, or there a second time."""
    if known.get(number) != wire:
        meaning = MEANINGS.get(what, {}).get(number)
        if meaning is not None:
            raise ValueError(f"a {what} in it has {meaning}, which exports never have")
        raise malformed(f"a {what} has the unknown field {number}, or one of another type")
    if number in once and number not in repeated:
        raise malformed(f"a {what} has the field {number} twice")
    once.add(number)


def _opset(data: bytes, begin: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    once: set[int] = set()
    for number, wire, start, stop, value in scan(data, begin, end):
        _check("set of operators", OPSET, number, wire, once, ())
        if number == 1:
            domain = _text(data, start, stop)
        else:
            version = value
    return "" if domain == "ai.onnx" else domain, version


def _graph(data: bytes, begin: int, end: int, opsets: Mapping[str, int]) -> ParsedGraph:
    nodes: list[Node] = []
    stored: list[Stored] = []
    inputs: list[Port] = []
    outputs: list[Port] = []
    values: list[Port] = []
    known = Known({}, {})
    once: set[int] = set()
    repeated = (1, 5, 11, 12, 13, 16)
    parts = scan(data, begin, end)
    _count_parts(parts)
    for number, wire, start, stop, _ in parts:
        _check("graph", GRAPH, number, wire, once, repeated)
        if number == 1:
            nodes.append(_node(data, start, stop, known))
        elif number == 5:
            stored.append(_stored(data, start, stop))
        elif number == 13:
            values.append(_port(data, start, stop, known))
        elif number == 11:
            inputs.append(_port(data, start, stop, known))
        elif number == 12:
            outputs.append(_port(data, start, stop, known))
    return ParsedGraph(
        opsets, tuple(nodes), tuple(stored), tuple(inputs), tuple(outputs), tuple(values)
    )


def _count_parts(parts: list[Part]) -> None:
    """Refuse more parts of a graph than the bounds allow, before any is read."""
    counts: dict[int, int] = {}
    for part in parts:
        counts[part[0]] = counts.get(part[0], 0) + 1
    for number, what, most in (
        (1, "nodes", MAX_NODES),
        (5, "stored tensors", MAX_STORED),
        (13, "descriptions of values", MAX_VALUES),
        (11, "inputs", MAX_STORED + MAX_PORTS),  # old graphs list stored tensors here too
        (12, "outputs", MAX_PORTS),
    ):
        if counts.get(number, 0) > most:
            raise ValueError(f"it has {counts[number]:,} {what}, at most {most:,} are accepted")


def _node(data: bytes, begin: int, end: int, known: Known) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Attribute] = {}
    words: dict[int, str] = {}
    for number, wire, start, stop, _ in scan(data, begin, end):
        if NODE.get(number) != wire or number in words:
            _check("node", NODE, number, wire, set(words), ())
        if number == 1:
            inputs.append(_text(data, start, stop))
        elif number == 2:
            outputs.append(_text(data, start, stop))
        elif number == 5:
            spelt = data[start:stop]
            read = known.attributes.get(spelt)
            if read is None:
                read = known.attributes[spelt] = _attribute(data, start, stop)
            key, value = read
            if key in attributes:
                raise malformed(f"a node has the attribute {key[:SHOWN]!r} twice")
            attributes[key] = value
        else:
            words[number] = _text(data, start, stop) if number in NAMES else ""
    name, operator, domain = (words.get(number, "") for number in NAMES)
    if max(len(inputs), len(outputs)) > MAX_OPERANDS or len(attributes) > MAX_ATTRIBUTES:
        raise ValueError(
            f"its node {name[:SHOWN]!r} has {len(inputs):,} inputs, {len(outputs):,} outputs and "
            f"{len(attributes):,} attributes, at most {MAX_OPERANDS}, {MAX_OPERANDS} and "
            f"{MAX_ATTRIBUTES} are accepted"
        )
    if domain not in {"", "ai.onnx"}:
        operator = f"{domain}.{operator}"
    return Node(operator, name, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: bytes, begin: int, end: int) -> tuple[str, Attribute]:
    name, kind = "", 0
    numbers: list[int] = []
    found: dict[int, Attribute] = {}
    once: set[int] = set()
    for number, wire, start, stop, value in scan(data, begin, end):
        if number == NUMBERS and wire in {VARINT, DELIMITED}:
            numbers += _numbers(data, start, stop)
            continue
        if ATTRIBUTE.get(number) != wire or number in once:
            _check("attribute", ATTRIBUTE, number, wire, once, ())
        once.add(number)
        if number == 1:
            name = _text(data, start, stop)
        elif number == 20:
            kind = value
        elif number in READERS:
            found[number] = READERS[number](data, start, stop)
    if kind not in KINDS:
        raise ValueError(f"the attribute {name[:SHOWN]!r} is of a kind that exports never have")
    field, default = KINDS[kind]
    if numbers or field == NUMBERS:
        if len(numbers) > MAX_NUMBERS:
            raise ValueError(f"an attribute has more than {MAX_NUMBERS} numbers")
        found[NUMBERS] = tuple(numbers)
    if not found and default is not None:  # a default may be left out
        found[field] = default
    if list(found) != [field]:
        raise malformed(f"the attribute {name[:SHOWN]!r} has another value than it says")
    return name, found[field]


def _numbers(data: bytes, begin: int, end: int) -> list[int]:
    if end - begin > MAX_NUMBERS * MAX_VARINT_BYTES:
        raise ValueError(f"an attribute has more than {MAX_NUMBERS} numbers")
    return [signed(value) for value in varints(data, begin, end)]


def _number(data: bytes, begin: int, end: int) -> int:
    return signed(varint(data, begin, end)[0])


def _fraction(data: bytes, begin: int, end: int) -> float:  # noqa: ARG001 - it has four bytes
    found: float = struct.unpack_from("<f", data, begin)[0]
    return found


def _stored(data: bytes, begin: int, end: int) -> Stored:
    dims: list[int] = []
    name, dtype, external = "", 0, False
    raw: tuple[int, int] | None = None
    once: set[int] = set()
    for number, wire, start, stop, value in scan(data, begin, end):
        if number == 1 and wire in {VARINT, DELIMITED}:
            if stop - start > 10 * MAX_RANK:
                raise ValueError(f"a stored tensor has more than {MAX_RANK} axes")
            dims += varints(data, start, stop)
            continue
        if TENSOR_FIELDS.get(number) != wire or number in once:
            _check("tensor", TENSOR_FIELDS, number, wire, once, (13, 16))
        once.add(number)
        if number == 2:
            dtype = value
        elif number == 8:
            name = _text(data, start, stop)
        elif number == 9:
            raw = (start, stop)
        elif number == 14:
            external = value == EXTERNAL
            if value > EXTERNAL:
                raise malformed("a stored tensor lies at an unknown place")
    _check_dtype(dtype, name)
    if len(dims) > MAX_RANK or any(side > MAX_SIDE for side in dims):
        raise ValueError(
            f"its tensor {name[:SHOWN]!r} has the shape {_short(dims)}; at most {MAX_RANK} axes of "
            f"0 to {MAX_SIDE:,} are accepted"
        )
    if external == (raw is not None) or external != (13 in once):
        raise malformed(f"the tensor {name[:SHOWN]!r} lies in the graph and in a file, or nowhere")
    size = math.prod(dims) * DTYPES[dtype][1]
    if raw is not None and raw[1] - raw[0] != size:
        raise ValueError(
            f"its tensor {name[:SHOWN]!r} of the shape {_short(dims)} has {raw[1] - raw[0]:,} "
            f"bytes, expected {size:,}"
        )
    held = None if raw is None else memoryview(data)[raw[0] : raw[1]]
    return Stored(name, dtype, tuple(dims), held)


def _port(data: bytes, begin: int, end: int, known: Known) -> Port:
    name, described = "", None
    once: set[int] = set()
    for number, wire, start, stop, _ in scan(data, begin, end):
        if VALUE.get(number) != wire or number in once:
            _check("value", VALUE, number, wire, once, (4,))
        once.add(number)
        if number == 1:
            name = _text(data, start, stop)
        elif number == 2:
            spelt = data[start:stop]
            described = known.types.get(spelt)
            if described is None:
                described = known.types[spelt] = _type(data, start, stop)
    if described is None:
        return Port(name, 0, None)
    _check_dtype(described[0], name)
    return Port(name, *described)


def _type(data: bytes, begin: int, end: int) -> tuple[int, Dims]:
    """Return the type of elements and the dimensions, None for an unknown rank."""
    parts = scan(data, begin, end)
    for number, wire, *_ in parts:
        if number in MEANINGS["type"] or wire != DELIMITED or number not in {1, 6}:
            _check("type", {1: DELIMITED, 6: DELIMITED}, number, wire, set(), ())
    tensors = [part for part in parts if part[0] == 1]
    if len(tensors) != 1:
        raise malformed("a value is not one tensor")
    dtype, shape = 0, None
    once: set[int] = set()
    for number, wire, start, stop, value in scan(data, tensors[0][2], tensors[0][3]):
        _check("type", {1: VARINT, 2: DELIMITED}, number, wire, once, ())
        if number == 1:
            dtype = value
        else:
            shape = _dimensions(data, start, stop)
    return dtype, shape


def _dimensions(data: bytes, begin: int, end: int) -> tuple[int | str | None, ...]:
    found: list[int | str | None] = []
    for number, wire, start, stop, _ in scan(data, begin, end):
        if number != 1 or wire != DELIMITED:
            raise malformed("a shape has an unknown field")
        dim: int | str | None = None
        for inner, kind, first, last, value in scan(data, start, stop):
            if inner == 1 and kind == VARINT and dim is None:
                dim = signed(value)
            elif inner == 2 and kind == DELIMITED and dim is None:
                dim = _text(data, first, last)
            elif inner != 3:
                raise malformed("a dimension has an unknown field, or two sizes")
        if isinstance(dim, int) and not 0 <= dim <= MAX_SIDE:
            raise ValueError(f"a value has an axis of {dim:,}; 0 to {MAX_SIDE:,} are accepted")
        found.append(dim or None if isinstance(dim, str) else dim)
        if len(found) > MAX_RANK:
            raise ValueError(f"a value has more than {MAX_RANK} axes")
    return tuple(found)


def _check_dtype(dtype: int, name: str) -> None:
    if dtype not in DTYPES:
        known = ", ".join(known for known, _ in DTYPES.values())
        raise ValueError(
            f"its tensor {name[:SHOWN]!r} has elements of the type {dtype}, which exports never "
            f"have; they have {known}"
        )


def _text(data: bytes, begin: int, end: int) -> str:
    if end - begin > MAX_NAME:
        raise ValueError(f"a name in it has {end - begin:,} bytes, at most {MAX_NAME} are accepted")
    return data[begin:end].decode("utf-8", "surrogateescape")


def _short(dims: list[int]) -> str:
    return str([d if d < 2**63 else d - 2**64 for d in dims[:MAX_RANK]])


NUMBERS = 8  # the field of an attribute with several whole numbers
# `AttributeProto.type`: the field that holds the value, and what stands for one that is left out.
KINDS: Mapping[int, tuple[int, Attribute | None]] = {
    1: (2, 0.0), 2: (3, 0), 3: (4, ""), 4: (5, None), 7: (NUMBERS, None),
}  # fmt: skip
READERS: Mapping[int, Callable[[bytes, int, int], Attribute]] = {
    2: _fraction, 3: _number, 4: _text, 5: _stored,
}  # fmt: skip
