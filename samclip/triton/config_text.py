"""The configuration of a model in Triton, and its text: `config.pbtxt`.

The fields are those of `ModelConfig` in Triton's `model_config.proto` that bundles need. The text
is in protobuf's own text format, so that writing one needs no library; the tests read each with
the protobuf classes of tritonclient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

TYPES: Mapping[str, str] = {  # Triton's names by numpy's
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "str": "TYPE_STRING",
}
ANY = -1  # an axis of any length
PLAIN = re.compile(r"[ !#-\[\]-~]*")  # ASCII without quotes and backslashes
Kind = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class TensorConfig:
    """An input or output: `dtype` as numpy names it, or "str"; -1 is an axis of any length.

    With a batch axis, `dims` are those after it. `optional`: requests may leave an input out.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Sequences:
    """Requests that belong together reach one instance, which keeps what they share.

    `most`: sequences that an instance has open at once; `idle_seconds`: one without requests for
    so long has ended.
    """

    most: int
    idle_seconds: float


@dataclass(frozen=True)
class ModelConfig:
    """A model: which back end runs it, its tensors, batches and instances.

    `backend`: one of Triton's, as "onnxruntime"; `platform`: what Triton calls the pair of back end
    and format, "" where the back end says it all. `max_batch_size` 0: the graph has no batch axis,
    and requests run one by one. `count` instances run at once, on the CPU or on GPU number `gpu`.
    """

    name: str
    backend: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    platform: str = ""
    file: str = ""
    max_batch_size: int = 0
    queue_delay_us: int = 0
    count: int = 1
    kind: Kind = "cpu"
    gpu: int = 0
    sequences: Sequences | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """Return the text of `config.pbtxt`."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"name: {quote(self.name)}"
        if self.platform:
            yield f"platform: {quote(self.platform)}"
        yield f"backend: {quote(self.backend)}"
        if self.file:
            yield f"default_model_filename: {quote(self.file)}"
        yield f"max_batch_size: {self.max_batch_size}"
        for key, tensors in (("input", self.inputs), ("output", self.outputs)):
            yield from repeated(key, map(_tensor_fields, tensors))
        if self.max_batch_size > 1:
            yield f"dynamic_batching {{ max_queue_delay_microseconds: {self.queue_delay_us} }}"
        if self.sequences is not None:
            yield from _sequence_lines(self.sequences)
        where = f"gpus: [ {self.gpu} ]" if self.kind == "gpu" else ""
        instances = f"count: {self.count} kind: KIND_{self.kind.upper()} {where}".rstrip()
        yield f"instance_group [ {{ {instances} }} ]"
        for key, value in self.parameters.items():
            text = f"key: {quote(key)} value {{ string_value: {quote(value)} }}"
            yield f"parameters {{ {text} }}"


def quote(text: str) -> str:
    """Return a text as protobuf's text format writes it: escaped bytes of UTF-8 in quotes."""
    if PLAIN.fullmatch(text):
        return f'"{text}"'
    escaped = (
        chr(byte) if PLAIN.fullmatch(chr(byte)) else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{"".join(escaped)}"'


def repeated(key: str, entries: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a repeated message, one entry each."""
    rows = [f"  {{ {entry} }}" for entry in entries]
    if rows:
        yield f"{key} ["
        yield from (f"{row}," for row in rows[:-1])
        yield rows[-1]
        yield "]"


def _tensor_fields(tensor: TensorConfig) -> str:
    dims = ", ".join(map(str, tensor.dims))
    text = f"name: {quote(tensor.name)} data_type: {TYPES[tensor.dtype]} dims: [ {dims} ]"
    return f"{text} optional: true" if tensor.optional else text


def _sequence_lines(sequences: Sequences) -> Iterator[str]:
    """Yield the sequence batcher: START, END and CORRID come to the model as further inputs."""
    yield "sequence_batching {"
    yield f"  max_sequence_idle_microseconds: {round(sequences.idle_seconds * 1e6)}"
    yield f"  oldest {{ max_candidate_sequences: {sequences.most} }}"
    controls = (
        ("START", "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"),
        ("END", "kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ]"),
        ("CORRID", "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64"),
    )
    entries = (f"name: {quote(name)} control [ {{ {text} }} ]" for name, text in controls)
    yield from (f"  {line}" for line in repeated("control_input", entries))
    yield "}"
