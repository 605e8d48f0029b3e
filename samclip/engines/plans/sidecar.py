"""The sidecar of a plan: what it was built from, by what, for what, and how.

A plan loads only on the TensorRT version and the GPU architecture that it was built for, and
TensorRT has no call that tells so beforehand. The plan file itself is exactly what TensorRT wrote;
all that must be checked before its bytes are used stands in a JSON file beside it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from samclip.errors import PlanDamagedError

SCHEMA_VERSION: Literal[1] = 1
MAX_SIDECAR_BYTES = 1_000_000

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Capability = Annotated[str, msgspec.Meta(pattern="^[0-9]+[.][0-9]+$")]  # "8.7"
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
LibraryName = Literal["tensorrt", "tensorrt-rtx"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records of a sidecar: frozen, unknown fields refused."""


class PlanFile(Record, frozen=True, kw_only=True):
    """The plan's bytes."""

    size: Size
    sha256: Sha256


class BuiltGraph(Record, frozen=True, kw_only=True):
    """The graph that the plan computes; `weights_sha256` is None where it has no weights file.

    `origin` is the path of the bundle that it came from, "" if there is none.
    """

    name: str
    onnx_sha256: Sha256
    weights_sha256: Sha256 | None = None
    precision: str = "fp32"
    attention: str | None = None
    origin: str = ""


class BuiltFor(Record, frozen=True, kw_only=True):
    """Where the plan runs: on GPUs of these compute capabilities, on this kind of system.

    `system` is as `platform.system()` and `platform.machine()` have it: "Linux aarch64". `gpu`,
    `driver` and `cuda` are those of the machine that built it, None where none was there.
    """

    capabilities: Annotated[tuple[Capability, ...], msgspec.Meta(min_length=1)]
    system: str
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None


class AxisRange(Record, frozen=True, kw_only=True):
    """Sizes that a dynamic axis may have, and the one that the kernels were chosen for."""

    least: Annotated[int, msgspec.Meta(ge=0)]
    best: Annotated[int, msgspec.Meta(ge=0)]
    most: Annotated[int, msgspec.Meta(ge=0)]

    def __str__(self) -> str:
        return f"{self.least},{self.best},{self.most}"


class BuildOptions(Record, frozen=True, kw_only=True):
    """How TensorRT was told to build; None is its own default.

    `workspace`: bytes of scratch memory that a kernel may take; `level`: builder optimisation
    level; `strip_weights`: the plan holds no weights and is refitted with the graph's before it
    runs; `version_compatible`: newer versions of the same major one may run it.
    """

    workspace: Size | None = None
    level: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    strip_weights: bool = False
    version_compatible: bool = False


class PlanTensor(Record, frozen=True, kw_only=True):
    """An input or output of the plan; -1 is a dynamic axis, `least`... its shapes' bounds.

    Those three are None for an output, and for an input whose shape is fixed.
    """

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: tuple[int, ...]
    least: tuple[int, ...] | None = None
    best: tuple[int, ...] | None = None
    most: tuple[int, ...] | None = None


class Sidecar(Record, frozen=True, kw_only=True):
    """All of a plan's JSON file; `digest` is the SHA-256 of this record with an empty one."""

    schema_version: Literal[1] = SCHEMA_VERSION
    digest: str = ""
    plan: PlanFile
    graph: BuiltGraph
    library: LibraryName
    library_version: str
    target: BuiltFor
    options: BuildOptions
    axes: dict[str, AxisRange] = {}
    tensors: tuple[PlanTensor, ...]
    samclip: str
    built: str  # UTC, ISO 8601
    seconds: float  # that the build took


def encode_sidecar(sidecar: Sidecar) -> bytes:
    """Serialise a sidecar as indented JSON, its digest filled in."""
    signed = msgspec.structs.replace(sidecar, digest=_digest(sidecar))
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def decode_sidecar(data: bytes, name: str) -> Sidecar:
    """Parse the bytes of the sidecar called `name`; raises PlanDamagedError on any fault."""
    if len(data) > MAX_SIDECAR_BYTES:
        raise _damaged(name, f"has {len(data):,} bytes, at most {MAX_SIDECAR_BYTES:,} are accepted")
    try:
        sidecar = msgspec.json.decode(data, type=Sidecar)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(name, f"is not a sidecar of schema {SCHEMA_VERSION}: {error}") from error
    if sidecar.digest != _digest(sidecar):
        raise _damaged(
            name,
            f"gives its own digest as {sidecar.digest[:64]!r}, but it is {_digest(sidecar)}: "
            "its bytes changed",
        )
    return sidecar


def _digest(sidecar: Sidecar) -> str:
    plain = msgspec.structs.replace(sidecar, digest="")
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()


def _damaged(name: str, reason: str) -> PlanDamagedError:
    return PlanDamagedError(
        f"the sidecar {name} {reason}. Remove it (samclip engine remove) and build the plan again: "
        "samclip engine build BUNDLE"
    )
