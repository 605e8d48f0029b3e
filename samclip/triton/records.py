"""Records of a repository: those that its models read, and the list of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from samclip.disk.user_files import read_user_file
from samclip.engines.base import GraphSource
from samclip.engines.graphs.gate import check_source
from samclip.errors import DeployError, IntegrityError
from samclip.runtime.bundles.manifest import FileEntry, Record
from samclip.runtime.bundles.weights import parse_weights

GRAPH_RECORD, FRONT_RECORD, MARKER = "graph.json", "front.json", "samclip-triton.json"
BUNDLE_FOLDER, VOCABULARY = "bundle", "vocabulary.safetensors"
MAX_RECORD_BYTES = 2**20
Kind = TypeVar("Kind", bound=msgspec.Struct)


class GraphRecord(Record, frozen=True, kw_only=True):
    """A graph that the Python back end runs: its own file first, then its weights files."""

    name: str
    files: dict[str, FileEntry]
    precision: str
    outputs: tuple[str, ...]
    batched: bool


class InnerGraph(Record, frozen=True, kw_only=True):
    """A graph that the front model asks: the model that serves it, and its tensors' names."""

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    token_rows: int | None = None


class FrontRecord(Record, frozen=True, kw_only=True):
    """What the front model serves: graphs by name, the device of their outputs, its scenes.

    `scenes`: kept at once by one instance; `idle_seconds`: after its last request one goes;
    `vocabulary`: whether there is a file VOCABULARY of saved names.
    """

    bundle: str
    device: Literal["cpu", "gpu"]
    gpu: int
    graphs: dict[str, InnerGraph]
    scenes: Annotated[int, msgspec.Meta(ge=1)]
    idle_seconds: Annotated[float, msgspec.Meta(gt=0)]
    vocabulary: bool = False


class RepositoryRecord(Record, frozen=True, kw_only=True):
    """All of a repository: its source, its models, and its files by path."""

    schema_version: Literal[1] = 1
    name: str
    bundle: str
    identity: str  # of the bundle's manifest and signature: a SHA-256
    backend: str
    device: str
    samclip: str
    models: tuple[str, ...]
    files: dict[str, FileEntry]


def encode(record: Record) -> bytes:
    """Serialise a record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """Read a record; raises DeployError for a file that is missing or is not one."""
    data = read_user_file(path, MAX_RECORD_BYTES, "the record", DeployError, "Deploy again.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} cannot be read as a record of a Triton repository: {error}. Deploy the "
            "bundle again."
        ) from error


def read_graph(folder: Path) -> tuple[GraphRecord, GraphSource]:
    """Read the graph of a version's folder: verified bytes, through the same gate as a bundle's.

    Raises DeployError, IntegrityError for bytes that changed, and GraphError.
    """
    record = read_record(folder / GRAPH_RECORD, GraphRecord)
    data = {name: _read_verified(folder / name, entry) for name, entry in record.files.items()}
    graph, *weights = record.files
    source = GraphSource(
        record.name,
        data[graph],
        weights={
            key: value for name in weights for key, value in parse_weights(data[name]).items()
        },
        files={name: data[name] for name in weights},
        precision=record.precision,
        sha256={name: record.files[name].sha256 for name in weights},
    )
    return record, check_source(source)


def _read_verified(path: Path, entry: FileEntry) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}. Deploy again.") from error
    digest = hashlib.sha256(data).hexdigest()
    if (len(data), digest) != (entry.size, entry.sha256):
        raise IntegrityError(
            f"{path} has {len(data):,} bytes and SHA-256 {digest}; {entry.size:,} and "
            f"{entry.sha256} were deployed. Deploy the bundle again."
        )
    return data
