"""Where an ONNX graph says that its weights lie: read off its bytes, without the onnx package.

OpenVINO and TensorRT follow what stands there. A path may lead out of the folder, and the location
`*/_ORT_MEM_ADDR_/*` makes OpenVINO read the process's own memory at any address. So a graph is
handed to them only when every location is a file whose bytes were verified. (ONNX Runtime is told
not to look at files at all.)
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from samclip.engines.onnx_bytes import DELIMITED, fields, malformed

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
Trail = tuple[int, ...]  # the numbers of the fields that lead to a message
MAX_DEPTH = 100  # of messages within messages, as protobuf's own parsers have it


def external_locations(onnx: bytes) -> set[str]:
    """Give every location of external data that a graph names.

    Raises ValueError for bytes that are no message.
    """
    found: set[str] = set()
    for _, start, end in messages(onnx, "Entry"):
        found |= _locations(onnx, start, end)
    return found


def unlisted_location(onnx: bytes, files: Container[str]) -> str | None:
    """Give a location that a graph names and that is not among `files`; None where all are.

    Raises ValueError for bytes that may name one and are no message.
    """
    if LOCATION not in onnx:
        return None
    return next((name for name in sorted(external_locations(onnx)) if name not in files), None)


def messages(onnx: bytes, wanted: str) -> Iterator[tuple[Trail, int, int]]:
    """Give each message of a kind of `FIELDS` in which the word occurs: its trail, start and end.

    No others are looked into, so that this takes milliseconds. Raises ValueError for bytes that
    are no message.
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
    """Give all values of one entry when any of its keys is "location": parsers take the last."""
    parts = [(part.number, onnx[part.begin : part.end]) for part in fields(onnx, start, end)]
    if (KEY, LOCATION) not in parts:
        return set()
    return {value.decode("utf-8", "replace") for number, value in parts if number == VALUE}
