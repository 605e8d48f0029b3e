"""The `Backend` and `Engine` protocols, and the checks and errors that all engines share.

A backend turns one verified ONNX graph into an engine on this device. Nothing in `engines` knows
of bundles, torch or the tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from samclip.engines.graphs.signature import GraphSignature
from samclip.errors import BackendUnavailableError, ClosedError, EngineRunError, Step

REMEDY = "To do: "  # comes before the remedy in messages of BackendUnavailableError
MAX_MESSAGE = 300  # characters of a library's message that are passed on

EnginePrecision = Literal["fp32", "bf16"]  # what FP32 of a graph is computed in
FULL: EnginePrecision = "fp32"

Held = TypeVar("Held")


@runtime_checkable
class Tensor(Protocol):
    """An array that may live on a device; `numpy()` brings it to the host."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        ...

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host."""
        ...


@runtime_checkable
class HostTensor(Protocol):
    """A tensor that may already be on the host."""

    def on_host(self) -> NDArray[np.generic] | None:
        """Return the data without copying it; None when it is on a device."""
        ...


class ArrayTensor:
    """A tensor on the host: it outlives the engine that made it, and no later run changes it."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self._array.dtype

    def numpy(self) -> NDArray[np.generic]:
        """Return the data, which is on the host already."""
        return self._array

    on_host = numpy


@dataclass(frozen=True)
class GraphSource:
    """One ONNX graph whose bytes have been verified.

    `weights` maps initializer names to arrays for the tensors that `onnx` keeps as external data;
    it is empty for a self-contained graph, and may hold tensors of the graph's other variants.
    `files` holds the same data the other way: the `location` that `onnx` names, and its bytes.
    `origin` says where the graph comes from (a bundle's path), `precision` and `attention` which
    of its variants this is: they serve messages alone; but a backend may keep on the disk what it
    compiled from a graph that has an origin.
    `sha256` holds the digests of `files` that are known from verifying them. `again` reads the
    graph once more: with it the source is its backend's alone, which may `release` its bytes.
    `trial` makes the cases by which a plan of this graph is judged (a `TrialMaker` of
    `engines.plans.gate.cases`); None for a graph that is not a bundle's.
    `signature` has the inputs and outputs that the checked reader found; None for a graph of our
    own that did not come from a file.
    """

    name: str
    onnx: bytes
    weights: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    origin: str = ""
    precision: str = "fp32"
    attention: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[], GraphSource] | None = None
    trial: Callable[[Mapping[str, Any]], Any] | None = None
    signature: GraphSignature | None = None

    def release(self) -> None:
        """Drop the weights if they can be read `again`, so that memory does not hold them twice."""
        if self.again is not None:
            object.__setattr__(self, "weights", {})
            object.__setattr__(self, "files", {})

    def whole(self) -> GraphSource:
        """Return this source with its weights, read once more if they were released."""
        if self.again is None or self.files:
            return self
        return replace(self.again(), again=self.again)


@dataclass(frozen=True)
class GraphKey:
    """The digests of a graph's bytes, known without reading them, for comparing plans.

    `weights_sha256` is None for a graph without a weights file; the rest is as in `GraphSource`.
    """

    name: str
    onnx_sha256: str
    weights_sha256: str | None = None
    origin: str = ""
    precision: str = "fp32"
    attention: str | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How to run: `threads` of the CPU per run, None for a fair share; `device` index on GPUs.

    `streams`: how many runs are expected at once, each on its own cores. With one, a run may use
    all cores and has the lowest latency; with more, throughput is higher.
    For TensorRT's engines: `contexts`, how many callers run at once, each in separate memory, None
    for 4, or 1 where the GPU shares the machine's memory;
    `cuda_graphs`, whether runs of the same shapes are replayed from a captured CUDA graph.
    `profile`: time each node of each run, for engines of backends whose traits say `profiles`.
    `precision`: what FP32 of a graph is computed in, one of the backend's `engine_precisions` or
    "fp32"; `fp32_outputs`: outputs of the graph that are computed in FP32 all the same, with all
    that they depend on.
    `optimise`: make the graph faster before its first run, where the backend can do without. What
    a few runs gain by it takes less time than that, and weights that are stored in fewer bits are
    expanded by it for as long as the engine lives.
    Fewer than 1 `threads` raise EngineRunError.
    """

    threads: int | None = None
    streams: int = 1
    device: int = 0
    contexts: int | None = None
    cuda_graphs: bool = True
    profile: bool = False
    precision: EnginePrecision = FULL
    fp32_outputs: tuple[str, ...] = ()
    optimise: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise EngineRunError(f"threads must be at least 1 or None, got {self.threads}.")

    def in_streams(self, streams: int) -> EngineOptions:
        """Return the options of an engine that shares the cores among so many runs at once."""
        threads = None if self.threads is None else max(1, self.threads // streams)
        return replace(self, threads=threads, streams=streams)

    def threads_per_run(self, cores: int) -> int:
        """Return `threads`, or a stream's share of `cores`."""
        return self.threads or max(1, cores // self.streams)


@dataclass(frozen=True)
class Probe:
    """Whether a backend works here: `detail` for people, `remedy` when it does not.

    `steps` say as facts what `remedy` says in words.
    """

    available: bool
    detail: str
    remedy: str = ""
    steps: tuple[Step, ...] = ()


def unavailable(error: BackendUnavailableError) -> Probe:
    """Return the probe of a backend that raised `error`, whose message may end in a remedy."""
    detail, _, remedy = str(error).partition(REMEDY)
    return Probe(False, detail.rstrip(". "), remedy.rstrip(". "), error.steps)


class Engine(Protocol):
    """One graph, ready on one device. `run` may be called from several threads at once."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs, all of which `run` needs."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        ...

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all); they stay on the device until `numpy()` is called.

        Raises EngineRunError when the backend fails, ClosedError after `close()`.
        """
        ...

    def close(self) -> None:
        """Free the engine; further calls to `close` do nothing."""
        ...


@dataclass(frozen=True)
class Traits:
    """What a backend runs best, and how it runs it: known without importing its library.

    `lowerings`: the forms of attention that exports write, the fastest first; `precisions`: the
    reduced ones that make it faster; `fused_attention`: the first version of its library that has
    kernels for ONNX's operator Attention in half precision, None when there is none;
    `int8_weights`: whether it reads weights that are stored as INT8 and computed in FP32;
    `contrib_operators`: whether it has ONNX Runtime's operators of the domain `com.microsoft`.

    `on_host`: its tensors lie in the host's memory; `gains_by_streams`: several runs at once, each
    on its own cores, take less time than one after the other on all; `serves_one`: an engine runs
    for one caller at a time, others wait; `captures_graphs`: runs of
    the same shapes are replayed from a captured CUDA graph; `slow_convolutions`: networks of many
    short convolutions run slower on it than on the backends that "auto" takes next;
    `by_name_alone`: "auto" never takes it; `profiles`: its engines are `engines.profile.Profiled`;
    `parallel_loads`: several threads may load graphs at the same time, and each takes a fraction of
    a second; `engine_precisions`: what it can compute FP32 graphs in besides FP32, where the
    processor is made for it, see `Reducing`.
    """

    lowerings: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    fused_attention: str | None = None
    int8_weights: bool = True
    contrib_operators: bool = False
    on_host: bool = False
    gains_by_streams: bool = False
    serves_one: bool = False
    captures_graphs: bool = False
    slow_convolutions: bool = False
    by_name_alone: bool = False
    profiles: bool = False
    parallel_loads: bool = False
    engine_precisions: tuple[EnginePrecision, ...] = ()


class Backend(Protocol):
    """One way to run graphs."""

    @property
    def name(self) -> str:
        """What `backend=` calls it."""
        ...

    @property
    def traits(self) -> Traits:
        """What it runs best, and how."""
        ...

    def probe(self) -> Probe:
        """Return whether the backend works on this machine; without side effects."""
        ...

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Return whether these graphs can run at once, without minutes of building first.

        Called only when `probe` succeeded; reads no graph.
        """
        ...

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Make `source` ready; raises EngineError: BackendUnavailableError, PlanError and so on."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A backend whose library reads more graphs from some version on."""

    @property
    def version(self) -> str | None:
        """The library's version here, as "10.14.1"; None when it is not known."""
        ...


@dataclass(frozen=True)
class Times:
    """The least seconds of all layers together, in FP32 and in another precision."""

    full: float
    reduced: float


@runtime_checkable
class Reducing(Protocol):
    """A backend that can compute FP32 graphs in the `engine_precisions` of its traits."""

    @property
    def precision_facts(self) -> tuple[str, ...]:
        """What answers in such a precision depend on besides the graph: processor, versions."""
        ...

    def probe_precision(self, precision: EnginePrecision, *, ask: bool = True) -> Probe:
        """Return whether this machine computes faster in `precision`, and ends no process by it.

        It is tried once, in a separate process and for a limited time, and the answer is kept.
        Without `ask` nothing is tried: the probe is then unavailable until an answer is kept.
        """
        ...

    def time_layers(self, precision: EnginePrecision) -> Times:
        """Time layers of encoders in FP32 and in `precision`; a separate process calls this."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A backend that keeps large graphs on the disk as it optimised them."""

    def find_kept(
        self, graph: GraphKey, options: EngineOptions
    ) -> Callable[[], Engine | None] | None:
        """Return what loads a graph with these digests as an earlier load optimised it.

        None where nothing is kept. What is returned verifies it first, and returns None for what is
        damaged. Only graphs without `token_rows` are kept, see `GraphSignature`.
        """
        ...


@runtime_checkable
class Hoarding(Protocol):
    """A backend that holds memory between runs, which other work could use."""

    def release_memory(self) -> None:
        """Return what no engine uses to the system; takes up to some 20 ms."""
        ...


def library_version(backend: Backend) -> str | None:
    """Return the version of a backend's library, None where it does not matter or is unknown."""
    return backend.version if isinstance(backend, Versioned) else None


@dataclass(frozen=True)
class Guard:
    """The checks before each run of the engine of `graph`, in the process that made it."""

    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    process: int = field(default_factory=os.getpid)

    def check_open(self, held: Held | None) -> Held:
        """Return `held`, which the engine keeps until it is closed.

        Raises ClosedError when it is None; EngineRunError in a forked child, which would wait
        forever for threads that stayed in the parent.
        """
        if held is None:
            raise ClosedError(f"the engine of {self.graph!r} is closed. Load the model again.")
        if not self.is_here():
            raise EngineRunError(
                f"the engine of {self.graph!r} was loaded before the process forked. "
                "Load the model in the child."
            )
        return held

    def is_here(self) -> bool:
        """Whether this is the process that made the engine, not a forked child."""
        return os.getpid() == self.process

    def check_names(self, feeds: Collection[str], outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Return the outputs to compute, all for None.

        Raises EngineRunError for outputs that the graph lacks, and for feeds that are not exactly
        its inputs.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        if not set(names) <= set(self.outputs):
            raise self._misnamed("outputs", names, self.outputs)
        if set(feeds) != set(self.inputs):
            raise self._misnamed("inputs", feeds, self.inputs)
        return names

    def failed(self, reason: str) -> EngineRunError:
        """Return the error of a run that failed; `reason` is the library's message."""
        return EngineRunError(
            f"the graph {self.graph!r} failed: {reason}. Check the shapes of its inputs, and the "
            "memory that is free."
        )

    def _misnamed(self, what: str, got: Iterable[str], known: Iterable[str]) -> EngineRunError:
        return EngineRunError(
            f"the graph {self.graph!r} has the {what} {', '.join(known)}; "
            f"asked with {', '.join(got) or 'none'}. Name those it has."
        )


class GuardedEngine:
    """Base of engines whose `Guard` knows their inputs and outputs."""

    _guard: Guard

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs, all of which `run` needs."""
        return self._guard.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        return self._guard.outputs


def wrong_type(name: str, got: object, expected: object) -> EngineRunError:
    """Return the error of an input whose dtype is not that of the graph: none is converted."""
    return EngineRunError(
        f"the input {name!r} is {got}, expected {expected}. Convert it: array.astype('{expected}')."
    )


def not_loadable(graph: str, backend: str, reason: str) -> EngineRunError:
    """Return the error of a graph that a backend's library refuses."""
    return EngineRunError(
        f"the graph {graph!r} could not be loaded by {backend}: {reason}. Export the bundle again "
        "for this backend, or choose another one."
    )


def clean_message(error: BaseException, internals: re.Pattern[str]) -> str:
    """Return a library's message in one line, without the `internals` that it names."""
    text = " ".join(internals.sub(" ", str(error)).split())
    return text[:MAX_MESSAGE].rstrip(". ") or type(error).__name__
