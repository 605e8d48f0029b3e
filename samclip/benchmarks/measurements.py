"""Raw measurements of a report, as `--json` writes them: times, memory, energy, rooflines.

Fields that came later have defaults, so that reports of earlier versions can be read.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

Kind = Literal["stage", "task", "pipeline", "process"]
State = Literal["cold", "warm"]
Statistic = Literal["median", "minimum"]
Arithmetic = Literal["fp32", "int8", "copy"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records of a report: frozen, unknown fields refused."""


class Timing(Record, frozen=True, kw_only=True):
    """The time of one thing, each time that it was measured.

    `model`: the subject's name. `kind`: a `stage` is a part of a pipeline, a `task` an answer from
    a scene that is encoded, a `pipeline` all from a file to an answer, a `process` the time of a
    whole new process. `state`: `cold` is the first time in a new model or process.
    `samples`: seconds, in the order of measurement, nothing left out; in a run with several models
    sample i of each was taken in the same round, on the same photo. `items`: how many of `item`
    one sample works on (an image, a prompt, a name): throughput counts those. `photos`: how many
    photos took turns: sample i is of photo i modulo `photos`.
    `part_of`: the name of the pipeline that this stage belongs to: the samples of all stages with
    the same `part_of`, model and state, the one named "other" among them, add up to that
    pipeline's, sample by sample.
    """

    model: str
    kind: Kind
    name: str
    state: State = "warm"
    unit: Literal["seconds"] = "seconds"
    samples: tuple[float, ...]
    items: int = 1
    item: str = "image"
    photos: int = 1
    part_of: str | None = None


class MemoryUse(Record, frozen=True, kw_only=True):
    """The memory of a fresh process that went as far as one stage, and no further.

    `model`: the subject's name. `stage`: what the process had done when it was measured; each
    stage includes those before it, the first being Python with samclip imported. `peaks`: the
    highest resident set of each process that was started for it, bytes. `device_memory`: bytes of
    the GPU that the process held at the end; None with the `device_reason`. `disk`: bytes of the
    bundle's files that were read up to this stage; None where it reads none.
    """

    model: str
    stage: str
    peaks: tuple[int, ...]
    device_memory: int | None = None
    device_reason: str | None = None
    disk: int | None = None

    @property
    def peak_rss(self) -> int:
        """The highest of the peaks, bytes."""
        return max(self.peaks)


class Energy(Record, frozen=True, kw_only=True):
    """The energy of one task; `joules` is None, with the `reason`, if unknown.

    `joules`: of the whole `sensor` (a GPU, a board, its idle part included) over `runs` runs
    that took `seconds` together.
    """

    model: str
    name: str
    joules: float | None
    runs: int
    seconds: float
    sensor: str | None = None
    reason: str | None = None

    @property
    def per_run(self) -> float | None:
        """Joules of one run; None if unknown."""
        return None if self.joules is None or not self.runs else self.joules / self.runs


class RunSettings(Record, frozen=True, kw_only=True):
    """How a model was run while it was timed.

    `precisions`: of each graph, as it computes. `threads`: asked for, per graph; None for the
    backend's choice. `cuda_graphs`: None where there is no such thing. `transfers`: whether copies
    between host and device are included in a stage's time, are separate stages, or do not exist.
    `warm_up`: rounds that were run and not kept; `repeats`: rounds that were.
    """

    model: str
    backend: str
    precisions: dict[str, str]
    threads: int | None
    device: int
    cuda_graphs: bool | None
    transfers: Literal["included", "apart", "none"]
    warm_up: int
    repeats: int


class ClockRange(Record, frozen=True, kw_only=True):
    """A clock and the range it may move in, in hertz; a pinned clock cannot move."""

    name: str
    lowest: float
    highest: float


class Conditions(Record, frozen=True, kw_only=True):
    """What the machine's speed depends on besides its hardware; None for what cannot be read.

    `power_mode`: of nvpmodel on a Jetson, elsewhere the CPU's frequency governor. `clocks`: the
    ranges of CPU and GPU; `clocks_pinned`: whether none of them can move. `order`: how models took
    turns.
    """

    power_mode: str | None
    clocks: tuple[ClockRange, ...]
    clocks_pinned: bool | None
    order: str


class OperatorShare(Record, frozen=True, kw_only=True):
    """The part that the nodes of one operator have in a graph; fields as in `OperatorWork`."""

    operator: str
    arithmetic: str
    nodes: int
    macs: int
    weight_bytes: int
    activation_bytes: int


class GraphRoofline(Record, frozen=True, kw_only=True):
    """One graph of one model: its work, and how long its runs took.

    `sizes`: the dynamic axes that it was run and counted at. `macs`: multiply-accumulates by the
    type of the factors ("float32", "int8"). `samples`: seconds. `ideal`: seconds that the products
    alone take at the machine's measured rates, and `reached` that divided by the median; None
    where the graph does not run on the host.
    """

    model: str
    graph: str
    backend: str
    precision: str
    sizes: dict[str, int]
    macs: dict[str, int]
    parameters: int
    weight_bytes: int
    activation_bytes: int
    io_bytes: int
    samples: tuple[float, ...]
    ideal: float | None
    reached: float | None
    operators: tuple[OperatorShare, ...]

    @property
    def reached_at_best(self) -> float | None:
        """The fraction that the fastest run reaches: rates are of the best runs too."""
        return None if self.ideal is None else self.ideal / min(self.samples)

    @property
    def all_macs(self) -> int:
        """Multiply-accumulates of all types."""
        return sum(self.macs.values())


class Rate(Record, frozen=True, kw_only=True):
    """The best speed at which this machine did one thing.

    `per_second`: floating-point or integer operations (two a multiply-accumulate), or, of copies,
    bytes read and bytes written together. `how`: what was run. `runs`: out of how many the best
    is kept.
    """

    arithmetic: Arithmetic
    per_second: float
    how: str
    threads: int
    runs: int


class DeviceEstimate(Record, frozen=True, kw_only=True):
    """ESTIMATE, nothing measured: how long a graph would take on a device, from published rates.

    `not_below`: seconds that no engine can beat: the products at the published dense rate, or what
    must be read and written at the published bandwidth, whichever is longer, as `limit` says.
    `at_fraction`: seconds at the `fraction` of that bound that was reached elsewhere.
    """

    model: str
    graph: str
    device: str
    precision: Literal["fp16", "int8"]
    not_below: float
    limit: Literal["products", "memory"]
    fraction: float
    at_fraction: float
    source: str


class Roofline(Record, frozen=True, kw_only=True):
    """The whole of a roofline; `estimate_note` says what the estimates are worth."""

    graphs: tuple[GraphRoofline, ...]
    rates: tuple[Rate, ...]
    estimates: tuple[DeviceEstimate, ...] = ()
    estimate_note: str = ""


class NodeProfile(Record, frozen=True, kw_only=True):
    """One node of a graph as the library runs it; `samples`: its seconds in each run.

    `operator` and `kernel`: the library's names. `scope`: the modules whose parameters it reads, or
    that it lies between; empty where that is not known. `shapes`: of its inputs and outputs, or of
    its outputs alone, as the library says. `macs`: multiply-accumulates, None where they were not
    counted.
    """

    name: str
    operator: str
    kernel: str
    scope: tuple[str, ...]
    shapes: str
    macs: int | None
    samples: tuple[float, ...]


class GraphProfile(Record, frozen=True, kw_only=True):
    """Where the time of one graph went, node by node, in the order in which they ran.

    `samples`: seconds of each run, of which nodes took all but those in `between`. `statistic`:
    which of a node's samples is shown as its time. `macs`: multiply-accumulates of the whole graph,
    None where they were not counted; of nodes those that are known to be theirs.
    """

    model: str
    graph: str
    backend: str
    precision: str
    statistic: Statistic
    macs: int | None
    samples: tuple[float, ...]
    between: tuple[float, ...]
    nodes: tuple[NodeProfile, ...]

    def time(self, samples: Sequence[float]) -> float:
        """Return the one of a node's samples, or of the graph's, that is shown."""
        return min(samples) if self.statistic == "minimum" else statistics.median(samples)


class Participant(Record, frozen=True, kw_only=True):
    """One of several programs that were compared, each a process in a separate environment.

    `image_size`: the side of its input in pixels. `python` and `packages`: versions of its
    environment, empty where none was made. `load_seconds`: the time to load the model. `reason`:
    why it has no figures; None where it has.
    """

    name: str
    what: str
    image_size: int
    python: str = ""
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    load_seconds: float | None = None
    reason: str | None = None


class Measurements(Record, frozen=True, kw_only=True):
    """The raw measurements of a report, from which its rows were computed.

    Benchmarks of accuracy, and reports of earlier versions, have none. `peers` lists who took
    part in a run of `tools/peers`.
    """

    timings: tuple[Timing, ...] = ()
    memory: tuple[MemoryUse, ...] = ()
    energy: tuple[Energy, ...] = ()
    settings: tuple[RunSettings, ...] = ()
    conditions: Conditions | None = None
    roofline: Roofline | None = None
    peers: tuple[Participant, ...] = ()
    profiles: tuple[GraphProfile, ...] = ()
