"""The sidecar of a plan: the graph, library, machine, settings and sizes that it was built for.

A plan loads only with the build of TensorRT and on the kind of GPU that it was built for, and
TensorRT has no call that checks this beforehand. The plan file itself is exactly what TensorRT
wrote; the facts to check before its bytes are used are in a JSON file next to it. Its graph is
identified by the SHA-256 of its ONNX bytes and of its weights file, and the sizes of dynamic axes
are ranges, which TensorRT builds for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from samclip.engines.backend_names import TENSORRT, LibraryName
from samclip.engines.base import GraphKey, GraphSource
from samclip.engines.limits import (
    MAX_CROPS,
    MAX_PROMPTS,
    MAX_REGIONS,
    MAX_TEXTS,
    PROMPTS_PER_BATCH,
)
from samclip.engines.plans.attention_layers import AttentionKernels
from samclip.engines.plans.gate.verdict import UNJUDGED, Verdict
from samclip.engines.plans.record import Capability, Record, Sha256, Size, digest_of, with_digest
from samclip.engines.steps import BuildPlans, RemovePlan
from samclip.errors import InputError, PlanDamagedError

SCHEMA_VERSION: Literal[2] = 2
MAX_SIDECAR_BYTES = 1_000_000


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
    """The plan's target: GPUs of these compute capabilities, on this kind of system.

    `system` is `platform.system()` and `platform.machine()`: "Linux aarch64". `gpu`, `processors`,
    `memory`, `driver` and `cuda` are those of the machine that built it, None where there was none:
    the GPU's name, its number of streaming multiprocessors, and its memory in bytes.
    """

    capabilities: Annotated[tuple[Capability, ...], msgspec.Meta(min_length=1)]
    system: str
    gpu: str | None = None
    processors: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    memory: Size | None = None
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
    """The settings of a build; None is TensorRT's default.

    `workspace`: bytes of scratch memory that a kernel may take; `level`: builder optimisation
    level; `strip_weights`: the plan holds no weights and is refitted with the graph's before it
    runs.
    """

    workspace: Size | None = None
    level: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    strip_weights: bool = False


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


class Asked(Record, frozen=True, kw_only=True):
    """What a plan stands in for: the graph and settings that were asked for, whose plan was wrong.

    `how` says in words in what the plan differs.
    """

    graph: BuiltGraph
    options: BuildOptions
    how: str


class Sidecar(Record, frozen=True, kw_only=True):
    """All of a plan's JSON file; `digest` is the SHA-256 of this record with an empty one.

    `graph` and `options` are those that it was built with; `asked` is None where they are those
    that were asked for. `attention_kernels`: "split" where the softmax of each attention is an
    output of the plan, "fp32" where attention computes in FP32.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    digest: str = ""
    plan: PlanFile
    graph: BuiltGraph
    library: LibraryName
    library_version: str
    target: BuiltFor
    options: BuildOptions
    axes: dict[str, AxisRange] = msgspec.field(default_factory=dict)
    tensors: tuple[PlanTensor, ...]
    samclip: str
    built: str  # UTC, ISO 8601
    seconds: float  # that the build took
    gate: Verdict = UNJUDGED
    attention_kernels: AttentionKernels = "any"
    asked: Asked | None = None

    @property
    def serves(self) -> BuiltGraph:
        """The graph of the bundle that it is loaded for."""
        return self.graph if self.asked is None else self.asked.graph

    @property
    def asked_options(self) -> BuildOptions:
        """The settings by which it is built again."""
        return self.options if self.asked is None else self.asked.options


def encode_sidecar(sidecar: Sidecar) -> bytes:
    """Serialise a sidecar as indented JSON, its digest filled in."""
    return msgspec.json.format(msgspec.json.encode(with_digest(sidecar)), indent=1) + b"\n"


def decode_sidecar(data: bytes, name: str) -> Sidecar:
    """Parse the bytes of the sidecar called `name`; raises PlanDamagedError on any fault."""
    if len(data) > MAX_SIDECAR_BYTES:
        raise _damaged(name, f"has {len(data):,} bytes, at most {MAX_SIDECAR_BYTES:,} are accepted")
    try:
        sidecar = msgspec.json.decode(data, type=Sidecar)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(name, f"is not a sidecar of schema {SCHEMA_VERSION}: {error}") from error
    if sidecar.digest != digest_of(sidecar):
        raise _damaged(
            name,
            f"gives its own digest as {sidecar.digest[:64]!r}, but it is {digest_of(sidecar)}: "
            "its bytes changed",
        )
    return sidecar


def _damaged(name: str, reason: str) -> PlanDamagedError:
    return PlanDamagedError(
        f"the sidecar {name} {reason}. Remove it and build the plan again.",
        steps=(RemovePlan(), BuildPlans()),
    )


def identify(source: GraphSource) -> BuiltGraph:
    """Hash a graph's bytes, except files whose digests are known from verifying them.

    `weights_sha256` is the digest of its weights file, for several that of their names and
    digests, None for a graph without any.
    """
    return BuiltGraph(
        name=source.name,
        onnx_sha256=hashlib.sha256(source.onnx).hexdigest(),
        weights_sha256=_weights_digest(source),
        precision=source.precision,
        attention=source.attention,
        origin=source.origin,
    )


def identify_key(key: GraphKey) -> BuiltGraph:
    """Return what `identify` returns for the graph that a key describes, without its bytes."""
    return BuiltGraph(
        name=key.name,
        onnx_sha256=key.onnx_sha256,
        weights_sha256=key.weights_sha256,
        precision=key.precision,
        attention=key.attention,
        origin=key.origin,
    )


def _weights_digest(source: GraphSource) -> str | None:
    digests = {
        name: source.sha256.get(name) or hashlib.sha256(data).hexdigest()
        for name, data in source.files.items()
    }
    if len(digests) == 1:
        return next(iter(digests.values()))
    if not digests:
        return None
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


# By the names of dynamic axes, as the manifest has them. A mask alone is a prompt of no points, a
# point or a box one of two. A least size of 0 is allowed: TensorRT asks for
# 0 <= least <= best <= most (`IOptimizationProfile::setDimensions`), and tensors may be empty.
DEFAULT_AXES: Mapping[str, AxisRange] = {
    "prompts": AxisRange(least=1, best=MAX_PROMPTS, most=MAX_PROMPTS),
    "points": AxisRange(least=0, best=2, most=64),
    "texts": AxisRange(least=1, best=16, most=PROMPTS_PER_BATCH),
    "regions": AxisRange(least=1, best=4, most=MAX_REGIONS),
    "crops": AxisRange(least=1, best=8, most=MAX_CROPS),
    "vocabulary": AxisRange(least=1, best=80, most=MAX_TEXTS),
    # Of photos whose masks are upscaled: a plan holds memory for the most, 4 bytes a pixel.
    "height": AxisRange(least=1, best=1080, most=4096),
    "width": AxisRange(least=1, best=1920, most=4096),
}


def parse_axis(text: str) -> AxisRange:
    """Read "LEAST,BEST,MOST", or one number for a fixed size; raises InputError."""
    parts = text.split(",")
    if len(parts) not in {1, 3} or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"{text!r} is not a range of sizes. Write three whole numbers, as in 1,4,16: the "
            "least, the one to optimise for, the most; or one number for a fixed size."
        )
    numbers = [int(part) for part in parts]
    least, best, most = numbers * 3 if len(numbers) == 1 else numbers
    if not least <= best <= most or most < 1 or most > 2**31 - 1:
        raise InputError(
            f"{text!r}: sizes must rise from the least over the one to optimise for to the most, "
            "which is at least 1."
        )
    return AxisRange(least=least, best=best, most=most)


def build_step(graph: BuiltGraph, library: str, capability: str | None = None) -> BuildPlans:
    """Return the step that builds a plan of `graph`, with every setting at its default."""
    return BuildPlans(
        origin=graph.origin,
        backend=library,
        graphs=(graph.name,),
        precision=graph.precision,
        targets=(capability,) if capability and library != TENSORRT else (),
    )


def rebuild_step(
    sidecar: Sidecar, origin: str = "", capability: str | None = None, force: bool = False
) -> BuildPlans:
    """Return the step that builds a plan again as it was built, for the bundle at `origin`.

    With `capability` also for a GPU of that compute capability.
    """
    graph, options = sidecar.serves, sidecar.asked_options
    targets: dict[str, None] = {}
    if sidecar.library != TENSORRT:
        targets = dict.fromkeys(filter(None, (*sidecar.target.capabilities, capability)))
    return BuildPlans(
        origin=origin or graph.origin,
        backend=sidecar.library,
        graphs=(graph.name,),
        precision=graph.precision,
        targets=tuple(targets),
        axes=tuple((n, str(a)) for n, a in sidecar.axes.items() if a != DEFAULT_AXES.get(n)),
        workspace=options.workspace,
        level=options.level,
        strip_weights=options.strip_weights,
        force=force,
    )
