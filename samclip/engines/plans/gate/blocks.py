"""The blocks of a graph, by the sums that end them, and graphs that give these sums as outputs.

A transformer adds the result of each part to what went into it. Those sums are where a wrong plan
can be followed from its beginning: the first that departs is of the block that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from samclip.engines.base import GraphSource
from samclip.engines.graphs.parsed import parse_model
from samclip.engines.graphs.protobuf import scan

GRAPH, OUTPUT = 7, 12  # fields of ModelProto and GraphProto
LENGTH_DELIMITED = 2
FLOAT = 1  # of TensorProto.DataType: sums of blocks are FP32 in every precision


def block_outputs(source: GraphSource) -> tuple[str, ...]:
    """List the sums of two computed tensors except the outputs, in the graph's order."""
    graph = parse_model(source.onnx)
    fixed = {stored.name for stored in graph.stored} | set(source.weights)
    fixed |= {name for node in graph.nodes if node.operator == "Constant" for name in node.outputs}
    outputs = {port.name for port in graph.outputs}
    return tuple(
        node.outputs[0]
        for node in graph.nodes
        if node.operator == "Add"
        and not fixed & set(node.inputs)
        and node.outputs[0] not in outputs
    )


def with_outputs(source: GraphSource, names: Sequence[str]) -> GraphSource:
    """Return a graph that gives FP32 tensors called `names` as outputs too."""
    data, parts, last = source.onnx, [], 0
    for number, _, begin, end, *_ in scan(data, 0, len(data)):
        if number == GRAPH:
            added = b"".join(_field(OUTPUT, _value_info(name)) for name in names)
            parts.append(_field(GRAPH, data[begin:end] + added))
        else:
            parts.append(data[last:end])
        last = end
    return replace(source, onnx=b"".join(parts), signature=None)


def _value_info(name: str) -> bytes:
    """Encode a ValueInfoProto of FP32 without a shape."""
    tensor = _varint(1 << 3) + _varint(FLOAT)  # elem_type
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
