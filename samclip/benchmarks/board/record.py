"""The record of a board as its file has it; None, null in the file, is what is not known.

A record names no person and no machine: no host, user, path, serial number or address. Times are in
milliseconds in `stages`, in seconds in `timings`, which has every sample.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from samclip.benchmarks.latency.photo_pipeline import CLASSIFY as CLASSIFY_TASK
from samclip.benchmarks.latency.photo_pipeline import COARSE, GRAPH_STAGES, NAME, POINT, RESTS
from samclip.benchmarks.latency.summary import Summary
from samclip.benchmarks.latency.throughput import TRANSFER
from samclip.benchmarks.latency.timed import COPIES
from samclip.benchmarks.measurements import (
    ClockRange,
    Energy,
    MemoryUse,
    Record,
    RunSettings,
    Timing,
)
from samclip.benchmarks.records import Machine, Subject
from samclip.engines.plans.gate.verdict import GateRow
from samclip.engines.plans.sidecar import AxisRange, BuildOptions
from samclip.runtime.graph_outputs import DECODING_GRAPHS

FORMAT: Literal["samclip board record"] = "samclip board record"
StageName = Literal[
    "whole",
    "decode",
    "preprocess",
    "h2d",
    "encode",
    "head",
    "classify",
    "decode_prompts",
    "upscale",
    "semantic",
    "name_regions",
    "fuse_names",
    "d2h",
    "other",
]
# The rows of a latency run that a stage adds up: the latter are its parts on the way of a photo.
STAGES: dict[StageName, tuple[str, ...]] = {
    "decode": (RESTS["decode"],),
    "preprocess": (RESTS["encode"],),
    "encode": (GRAPH_STAGES["encoder"],),
    "head": (GRAPH_STAGES["token_aggregation"], GRAPH_STAGES["clip_head"]),
    "classify": (RESTS[CLASSIFY_TASK],),
    "decode_prompts": tuple(GRAPH_STAGES[graph] for graph in DECODING_GRAPHS),
    "upscale": (RESTS[POINT],),
    "semantic": (RESTS[COARSE],),
    "name_regions": (GRAPH_STAGES["roi_classifier"], GRAPH_STAGES["clip_roi"]),
    "fuse_names": (RESTS[NAME],),
    "d2h": (COPIES,),
    "other": ("other",),
}
COPY_IN = TRANSFER
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
MILLISECONDS = 1e3


class Figures(Record, frozen=True, kw_only=True):
    """Figures of N samples; percentiles as in `Summary`, `noise` a share."""

    n: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    noise: float | None

    @classmethod
    def of(cls, summary: Summary) -> Figures:
        """Return a summary of seconds as milliseconds."""
        names = ("min", "mean", "median", "p90", "p95", "p99", "max")
        scaled = {name: round(getattr(summary, name) * MILLISECONDS, 6) for name in names}
        return cls(n=summary.n, noise=summary.noise, **scaled)


class Stage(Record, frozen=True, kw_only=True):
    """A stage of a photo's way from its file to three answers, milliseconds.

    `ms` is None for a stage that this model, or this machine, does not have. "h2d" is a part of
    "encode" where there is one, measured separately; the others but "whole" add up to that.
    """

    stage: StageName
    ms: Figures | None


class GpuHere(Record, frozen=True, kw_only=True):
    """The GPU as its driver describes it; memory in bytes."""

    name: str
    capability: str
    processors: int
    memory: int
    shares_memory: bool
    driver: str | None
    cuda: str


class JetPackHere(Record, frozen=True, kw_only=True):
    """A Jetson's release and the system's packages of TensorRT."""

    l4t: str | None
    jetpack: str | None
    tensorrt: str | None
    tensorrt_python: str | None
    container: bool


class PowerHere(Record, frozen=True, kw_only=True):
    """What limits the speed: nvpmodel's mode and its fastest one, and who sets the clocks.

    `clocks_pinned`: whether jetson_clocks, or a like, keeps each clock in its place.
    """

    mode: str | None
    mode_number: int | None
    fastest_mode: str | None
    clocks_pinned: bool | None
    clocks: tuple[ClockRange, ...]
    governor: str | None


class Range(Record, frozen=True, kw_only=True):
    """The readings of one sensor during the measurement."""

    lowest: float
    mean: float
    highest: float


class Reading(Record, frozen=True, kw_only=True):
    """One reading of the machine's state; fields as in `MachineState`, clocks in hertz.

    `gpu_slowed_by` and what is called "gpu" in the others come from NVML.
    """

    temperatures: dict[str, float] | None
    clocks: dict[str, float] | None
    clock_limits: dict[str, float] | None
    cooling: dict[str, int] | None
    fans: dict[str, int] | None
    overcurrent: dict[str, int] | None
    core_throttles: int | None
    rails: dict[str, float] | None
    memory: int | None
    gpu_slowed_by: tuple[str, ...] | None


class During(Record, frozen=True, kw_only=True):
    """Readings taken while the model ran, `readings` of them, `seconds` apart.

    `cooling`: the highest state of each cooling device. `gpu_slowed_by`: all that was seen.
    """

    readings: int
    seconds: float
    temperatures: dict[str, Range] | None
    clocks: dict[str, Range] | None
    rails: dict[str, Range] | None
    memory: Range | None
    cooling: dict[str, int] | None
    gpu_slowed_by: tuple[str, ...] | None


class Noise(Record, frozen=True, kw_only=True):
    """The same photo again and again, before all else and after it, milliseconds.

    `drift`: the second median by the first: 1.02 is a machine that became 2 % slower.
    """

    first: Figures
    second: Figures
    drift: float


class PlanHere(Record, frozen=True, kw_only=True):
    """A plan of this bundle on this machine, and how the gate judged it; fields as in `Sidecar`."""

    graph: str
    precision: str
    attention: str | None
    library: str
    library_version: str
    capabilities: tuple[str, ...]
    gpu: str | None
    processors: int | None
    driver: str | None
    cuda: str | None
    options: BuildOptions
    axes: dict[str, AxisRange]
    attention_kernels: str
    stands_in: str | None
    build_seconds: float
    plan_bytes: int
    gate: Literal["passed", "failed", "unjudged", "skipped"]
    gate_reason: str
    gate_rows: tuple[GateRow, ...]


class Signature(Record, frozen=True, kw_only=True):
    """Who signed the rest of the file: `value` is over all of it but `value` itself.

    `key`: "own" is a key that the sender keeps, "once" one that was made for this file and thrown
    away: then the signature shows that the file was not changed, and not whose it is. `note` says
    the same in words.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key: Literal["own", "once"]
    note: str
    public_key: str
    fingerprint: str
    value: str = ""


class BoardRecord(Record, frozen=True, kw_only=True):
    """All of the file. `bundle` has no path; `library_version` is that of the backend's library.

    `idle_memory`: bytes that were free before the model was loaded: on a Jetson, whose GPU
    shares this memory, the least that was free during the measurement, taken from this, is all
    that the model needs. `watts`, `joules_per_image`: of the sensor that `energy` names, idle part
    included. `throttled`: what slowed the machine down during the measurement, empty for nothing,
    None where the machine reports nothing of the kind.
    """

    format: Literal["samclip board record"] = FORMAT
    schema_version: Literal[1] = 1
    samclip: str
    date: str
    seconds: float
    command: str
    machine: Machine
    gpu: GpuHere | None
    jetpack: JetPackHere | None
    power: PowerHere
    bundle: Subject
    settings: RunSettings
    library_version: str | None
    plans: tuple[PlanHere, ...]
    photos: int
    stages: tuple[Stage, ...]
    h2d_reason: str | None
    watts: float | None
    joules_per_image: float | None
    energy: Energy
    memory: tuple[MemoryUse, ...]
    idle_memory: int | None
    before: Reading
    during: During
    after: Reading
    throttled: tuple[str, ...] | None
    noise: Noise
    timings: tuple[Timing, ...]
    protocol: tuple[str, ...]
    signature: Signature
