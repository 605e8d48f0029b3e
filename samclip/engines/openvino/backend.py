"""OpenVINO on the CPU.

Choices. Threads: one per physical core that this process may use, not pinned. One stream and one
request, the shortest way to one answer: callers on other threads wait for their turn. Precision:
FP32 graphs compute in FP32 unless BF16 is asked for. Left to itself OpenVINO takes BF16 where the
processor has it, and may quantise the inputs of products whose weights are stored as INT8; both are
inexact, and are switched off. INT8 graphs with Q/DQ run in INT8, without AMX (see `library.py`).

Failures. A run that fails midway, for instance when memory is short, leaves shapes and buffers in
the model that do not fit each other: OpenVINO 2026.4.1 then refuses inputs that are right, or
crashes. So a model that has failed is not used again. With one thread it is worse: a failure raises
nothing, a request that was used before holds its former outputs, and freeing the model crashes the
next one. There each run gets a new request, whose outputs are empty if it fails, and a model that
has failed is never freed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.backend_names import OPENVINO as OPENVINO_NAME
from samclip.engines.base import (
    FULL,
    ArrayTensor,
    EngineOptions,
    EnginePrecision,
    GraphKey,
    GraphSource,
    Guard,
    GuardedEngine,
    Probe,
    Tensor,
    Times,
    Traits,
    not_loadable,
    wrong_type,
)
from samclip.engines.machine.device import describe_processor, saturates_int8
from samclip.engines.machine.host import (
    is_fault,
    is_shortage,
    release_free_memory,
    shortage,
    usable_cores,
)
from samclip.engines.openvino.library import (
    HINTS,
    ISA_VARIABLE,
    ISA_WITHOUT_AMX,
    PACKAGE,
    PRECISION_HINT,
    clean_message,
    find_library,
    import_library,
    open_core,
    suits_processor,
)
from samclip.engines.openvino.node_times import NodeTimes, read_nodes
from samclip.engines.openvino.parts import Part, is_cut, split_outputs
from samclip.engines.precision_probe import probe_precision
from samclip.engines.process_edges import keep_in_children, never_destroy
from samclip.engines.profile import ProfiledRun, not_profiled
from samclip.errors import EngineError

if TYPE_CHECKING:
    from samclip.engines.openvino.compiler import Compiled

SETTINGS: dict[str, Any] = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "EXECUTION_MODE_HINT": "ACCURACY",
    # Of each model: how many kernels are kept for shapes that were asked for before, 0.3 MB each.
    "CPU_RUNTIME_CACHE_CAPACITY": 64,
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # inputs of products with INT8 weights stay FP32
}
Held = TypeVar("Held")
# Computes INT8 graphs in FP32: slower, but right.
EXACT_INT8 = {"LP_TRANSFORMS_MODE": "NO"}


class Computes(Protocol):
    """What computes a graph: a model, or a chain of two; for one thread at a time."""

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """The type of each input."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        ...

    def infer(self, values: Mapping[str, Any], names: Sequence[str]) -> list[NDArray[np.generic]]:
        """Compute the outputs `names`, as arrays that no later run changes."""
        ...

    def end_profile(self) -> tuple[ProfiledRun, ...] | None:
        """Return all runs so far, and time nodes no longer; None where they were not timed."""
        ...

    def forget(self) -> None:
        """Drop what has failed; the next run begins without it."""
        ...


class Computing:
    """The model of `compile_graph`, compiled again after a failure; for one thread at a time.

    `runs`: those so far, where nodes are timed, else None.
    """

    def __init__(self, compile_graph: Callable[[], Compiled], profile: bool = False) -> None:
        self._compile = compile_graph
        self.runs: list[ProfiledRun] | None = [] if profile else None
        self._times = NodeTimes()
        self._compiled: Compiled | None = compile_graph()
        self._request: Any = None
        self._is_silent = self.model.get_property("INFERENCE_NUM_THREADS") == 1
        keep_in_children(self)

    @property
    def inputs(self) -> dict[str, np.dtype[Any]]:
        """The type of each input."""
        return {port.any_name: np.dtype(port.element_type.to_dtype()) for port in self.model.inputs}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(port.any_name for port in self.model.outputs)

    @property
    def model(self) -> Any:
        """OpenVINO's compiled model."""
        if self._compiled is None:
            self._compiled = self._compile()
        return self._compiled.model

    def infer(self, values: Mapping[str, Any], names: Sequence[str]) -> list[NDArray[np.generic]]:
        """Compute the outputs `names`, as copies: the next run overwrites the request's arrays."""
        return self.borrow(values, names, lambda arrays: [array.copy() for array in arrays])

    def borrow(
        self,
        values: Mapping[str, Any],
        names: Sequence[str],
        use: Callable[[list[NDArray[np.generic]]], Held],
    ) -> Held:
        """Return what `use` makes of the outputs `names`, which it must not keep.

        A signal handler may call this in the middle of a run of its thread: it gets another
        request.
        """
        request, self._request = self._request or self.model.create_infer_request(), None
        try:
            start = time.perf_counter()
            request.infer(values, share_inputs=True, share_outputs=True)
            if self.runs is not None:
                seconds = time.perf_counter() - start
                self.runs.append(ProfiledRun(seconds, self._times.of_run(request.profiling_info)))
            found = use([request.get_tensor(name).data for name in names])
            self._request = None if self._is_silent else request
        except BaseException as error:
            if is_fault(
                error, PACKAGE
            ):  # not Ctrl-C or a time limit, which come before or after it
                self.forget()
            raise
        finally:
            del request  # or the error's traceback would keep it
        return found

    def end_profile(self) -> tuple[ProfiledRun, ...] | None:
        """Return all runs so far, and time nodes no longer; None where they were not timed."""
        runs, self.runs = self.runs, None
        if runs is None:
            return None
        described = read_nodes(self.model.get_runtime_model())
        return tuple(
            replace(run, nodes=tuple(described.complete(node) for node in run.nodes))
            for run in runs
        )

    def forget(self) -> None:
        """Drop the model, because a run of it has failed."""
        if self._is_silent and self._compiled is not None:
            never_destroy(self._compiled)
        self._compiled = self._request = None
        self._times = NodeTimes()


class Chain:
    """The two parts of a graph: `second` goes on from what `first` gives."""

    def __init__(self, first: Computing, second: Computing) -> None:
        self._first, self._second = first, second
        self._outputs = tuple(name for name in first.outputs if not is_cut(name))
        between = self._between = tuple(name for name in second.inputs if name in first.outputs)
        given = {**first.inputs, **second.inputs}
        self._inputs = {name: type_ for name, type_ in given.items() if name not in between}

    @property
    def inputs(self) -> dict[str, np.dtype[Any]]:
        """The type of each input of the whole graph."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs of the whole graph."""
        return (*self._outputs, *self._second.outputs)

    def infer(self, values: Mapping[str, Any], names: Sequence[str]) -> list[NDArray[np.generic]]:
        """Compute the outputs `names`; the second part runs only where one of them is its own."""
        wanted = [name for name in names if name in self._outputs]
        rest = [name for name in names if name not in self._outputs]
        asked = [*wanted, *(self._between if rest else ())]

        def go_on(arrays: list[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
            computed = dict(zip(asked, arrays, strict=True))
            found = {name: computed[name].copy() for name in wanted}
            if rest:
                known = {**values, **computed}
                taken = {name: known[name] for name in self._second.inputs}
                found |= zip(rest, self._second.infer(taken, rest), strict=True)
            return found

        taken = {name: values[name] for name in self._first.inputs}
        found = self._first.borrow(taken, asked, go_on)
        return [found[name] for name in names]

    def forget(self) -> None:
        """Drop both models, because a run of one has failed."""
        self._first.forget()
        self._second.forget()

    def end_profile(self) -> tuple[ProfiledRun, ...] | None:
        """Return the runs of both parts as one each; None where nodes are not timed."""
        parts = [part.end_profile() for part in (self._first, self._second)]
        if parts[0] is None or parts[1] is None:
            return None
        return tuple(
            ProfiledRun(one.seconds + other.seconds, (*one.nodes, *other.nodes))
            for one, other in zip(*parts, strict=True)
        )


def to_ov_tensor(
    library: Any, name: str, feed: NDArray[np.generic] | Tensor, expected: np.dtype[Any]
) -> Any:
    """Return a feed as OpenVINO's `Tensor`, without copying where dtype and order allow it.

    `expected` is the dtype of the input; none is converted. Raises EngineRunError.
    """
    array = feed if isinstance(feed, np.ndarray) else feed.numpy()
    if array.dtype != expected:
        raise wrong_type(name, array.dtype, expected)
    ordered = np.asarray(array, order="C")
    return library.Tensor(ordered, shared_memory=ordered.size > 0 and ordered.flags.writeable)


class OvEngine(GuardedEngine):
    """One graph as a compiled model, or as one for each of its parts."""

    def __init__(self, library: Any, computing: Computes, name: str) -> None:
        self._library = library
        self._computing: Computes | None = computing
        # Making and ending requests from many threads crashes it; a signal handler may call this in
        # the middle of a run in the same thread.
        self._turn = threading.RLock()
        self._types = computing.inputs
        self._guard = Guard(name, tuple(self._types), computing.outputs)

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all).

        Raises EngineRunError for inputs that do not fit or when OpenVINO fails, ClosedError after
        `close()`.
        """
        computing = self._guard.check_open(self._computing)
        names = self._guard.check_names(feeds, outputs)
        values = {
            name: to_ov_tensor(self._library, name, feed, self._types[name])
            for name, feed in feeds.items()
        }
        if not names:
            return {}
        try:
            with self._turn:
                found = computing.infer(values, names)
        except EngineError:  # ours, when compiling again fails
            raise
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, PACKAGE):
                raise
            if is_shortage(error):
                raise shortage(clean_message(error)) from error
            raise self._guard.failed(clean_message(error)) from error
        results = {name: ArrayTensor(array) for name, array in zip(names, found, strict=True)}
        self._check_computed(computing, values, results)
        return dict(results)

    def end_profile(self) -> tuple[ProfiledRun, ...]:
        """Return all runs so far, as `Profiled` says."""
        computing = self._guard.check_open(self._computing)
        with self._turn:
            runs = computing.end_profile()
        if runs is None:
            raise not_profiled(self._guard.graph)
        return runs

    def close(self) -> None:
        """Free the model once the runs in flight have ended; again: do nothing."""
        if self._computing is not None and self._guard.is_here():
            self._computing = None
            release_free_memory()

    def _check_computed(
        self,
        computing: Computes,
        feeds: Mapping[str, Any],
        results: Mapping[str, ArrayTensor],
    ) -> None:
        """Refuse empty results of inputs that are not empty.

        With one thread OpenVINO raises nothing when the shapes inside a dynamic graph do not fit:
        it leaves its outputs empty.
        """
        empty = [name for name, result in results.items() if 0 in result.shape]
        if empty and not any(0 in feed.shape for feed in feeds.values()):
            with self._turn:
                computing.forget()
            raise self._guard.failed(f"its outputs {', '.join(empty)} are empty")


@dataclass(frozen=True)
class OpenVinoBackend:
    """OpenVINO on the CPU."""

    name: str = OPENVINO_NAME

    @property
    def traits(self) -> Traits:
        """What it runs best; "auto" takes it on processors that it was measured on."""
        return Traits(
            lowerings=("wide", "chunk", "bias", "fold"),  # it packs keys and values of each chunk
            precisions=("int8",),  # it has no kernels for FP16 and BF16
            on_host=True,
            gains_by_streams=True,
            serves_one=True,
            slow_convolutions=True,  # once other programs want a core: docs/evidence/cpu.md
            by_name_alone=not suits_processor(),
            profiles=True,
            engine_precisions=("bf16",),
        )

    @property
    def precision_facts(self) -> tuple[str, ...]:
        """Return what answers in BF16 depend on besides the graph: processor and version."""
        sets = os.environ.get(ISA_VARIABLE, ISA_WITHOUT_AMX)
        return (*describe_processor(), sets, find_library().detail)

    def probe_precision(self, precision: EnginePrecision, *, ask: bool = True) -> Probe:
        """Return whether this machine computes faster in `precision`, see `Reducing`."""
        library = find_library()
        if not library.available:
            return library
        return probe_precision(self.name, precision, self.precision_facts, ask=ask)

    def time_layers(self, precision: EnginePrecision) -> Times:
        """Time a product and two convolutions, see `Reducing`."""
        # for a separate process alone
        from samclip.engines.openvino.precision_layers import time_layers  # noqa: PLC0415

        return time_layers(precision)

    def probe(self) -> Probe:
        """Return whether OpenVINO is installed; import nothing."""
        return find_library()

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:  # noqa: ARG002
        """Return that any graph runs at once: it is compiled in seconds."""
        return Probe(True, "needs no plans")

    def load(self, source: GraphSource, options: EngineOptions) -> OvEngine:
        """Compile a graph; raises BackendUnavailableError or EngineRunError."""
        library = import_library()
        # One stream on all cores whatever `streams` says: the weights would be there for each.
        settings = {**SETTINGS, "INFERENCE_NUM_THREADS": options.threads or usable_cores()}
        if saturates_int8():
            settings |= EXACT_INT8
        try:
            engine = OvEngine(library, _computing(library, source, settings, options), source.name)
        except EngineError:  # ours, with its own advice
            raise
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, PACKAGE):
                raise
            if is_shortage(error):
                raise shortage(clean_message(error)) from error
            raise not_loadable(source.name, self.name, clean_message(error)) from error
        release_free_memory()
        return engine


def _computing(
    library: Any, source: GraphSource, settings: Mapping[str, Any], options: EngineOptions
) -> Computes:
    """Compile a graph in the precision that is asked for, those of its outputs in FP32 apart."""
    # brings in the cache, which other backends need not wait for
    from samclip.engines.openvino.compiler import Compiler  # noqa: PLC0415

    core = open_core(library)

    def compute(precision: EnginePrecision, part: Part | None = None) -> Computing:
        given = {**settings, PRECISION_HINT: HINTS[precision]}
        compiler = Compiler(library, core, source, given, options.profile, part)
        return Computing(compiler.compiled, options.profile)

    if options.precision == FULL or not options.fp32_outputs:
        return compute(options.precision)
    first, second = split_outputs(options.fp32_outputs)
    return Chain(compute(FULL, first), compute(options.precision, second))


OPENVINO = OpenVinoBackend()
