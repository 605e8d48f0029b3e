"""The engines of one model: loaded on first use, shared by threads, closed together.

`Usage` counts the runs under way, so that closing waits for them, whatever interrupts them.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import (
    FULL,
    Backend,
    Engine,
    EngineOptions,
    EnginePrecision,
    GraphSource,
    Hoarding,
    Keeping,
    Tensor,
    library_version,
)
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.foreign import ForeignTensor, Keeper
from samclip.engines.machine.host import usable_cores
from samclip.engines.process_edges import call_under_way, stop_at_exit
from samclip.engines.side_by_side import SideBySide
from samclip.errors import (
    BackendUnavailableError,
    CapabilityError,
    ClosedError,
    EngineRunError,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graph, Variant, base_name
from samclip.runtime.bundles.ready_shapes import ReadyShapes
from samclip.runtime.graph_outputs import IMAGE_KEYS, POINT_DECODER, Feeds, OutputCheck
from samclip.runtime.room import has_room
from samclip.runtime.stages import debug_time

if TYPE_CHECKING:
    from samclip.engines.plans.gate.cases import Trial
    from samclip.engines.plans.sidecar import AxisRange

Checked = tuple[Engine, OutputCheck]
EngineName = tuple[str, int]  # of a graph, and how many runs share the cores
MakeTrial = Callable[[str, Mapping[str, "AxisRange"]], "Trial"]  # of a graph of the bundle
# Their results are kept between runs and machines: so they are always those of FP32.
OF_TEXT = frozenset({"text_encoder"})
# Runs of a graph in one answer, as prompts of a grid of points: from so many on, some at once, each
# on its share of the cores, take less time, the load of their engine included.
RUNS_IN_STREAMS, STREAMS = 128, 2
STREAMS_BYTES = 256 * 2**20
LEAST_STACK = 256 * 1024  # bytes that libraries may use of a thread's stack, and reserve
LOOK_SECONDS = 0.5  # how often `Usage.close` looks for uses that ended without notifying it
_logger = logging.getLogger("samclip")


class EnginePool:
    """Runs the graphs of `bundle` on `backend`.

    Any method may be called from any thread. An engine does not survive a fork: in a forked
    child every run raises EngineRunError, because the backends' own threads are gone there.
    `make_trial` makes the cases by which a plan that was never judged here is judged.
    `max_shapes`: of how many shapes of input engines are kept, see `ReadyShapes`; None for all.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        options: EngineOptions,
        precision: str | None = None,
        make_trial: MakeTrial | None = None,
        max_shapes: int | None = None,
    ) -> None:
        self.bundle = bundle
        self._make_trial = make_trial
        self.backend = backend
        self._options = options
        self._precision = precision
        self._engines: dict[EngineName, Checked] = {}
        self._shapes = ReadyShapes(bundle.manifest, max_shapes)
        self._loading: dict[str, threading.RLock] = {}
        self._usage = Usage()
        self._process = os.getpid()

    @property
    def engine_precision(self) -> EnginePrecision:
        """What engines compute in where graphs are in FP32, unless they would depart from it."""
        return self._options.precision

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._usage.closed

    def check_open(self, owner: str = "the model") -> None:
        """Raise ClosedError, in which `owner` is what is closed, after `close`.

        In a forked child raise EngineRunError: engines and locks may wait there forever.
        """
        self._check_process()
        if self.closed:
            raise ClosedError(f"{owner} is closed. Load it again with samclip.load().")

    def has(self, graph: str) -> bool:
        """Whether the bundle holds `graph`."""
        return self.bundle.manifest.graph(graph) is not None

    def inputs(self, graph: str) -> tuple[str, ...]:
        """Return the names of the inputs of `graph`; CapabilityError when the bundle lacks it."""
        return tuple(spec.name for spec in self._described(graph).inputs)

    def variant(self, graph: str) -> Variant | None:
        """Return the variant of `graph` for this backend; None when it is not available here."""
        described = self.bundle.manifest.graph(graph)
        return (
            None
            if described is None
            else self._variant(described, self._precision_of(graph, described))
        )

    def decoders(self, canvas: tuple[int, int]) -> tuple[str, ...]:
        """Return the graphs that answer prompts without masks on a canvas (h, w), in their order.

        They are `image_keys` and `point_decoder` where the backend has both, else `mask_decoder`.
        """
        name_for = self.bundle.manifest.name_for
        apart = name_for(IMAGE_KEYS, canvas), name_for(POINT_DECODER, canvas)
        return apart if all(map(self.variant, apart)) else (name_for("mask_decoder", canvas),)

    def streams_for(self, runs: int) -> int:
        """Return how many of so many runs of a graph are best made at once, each on its own cores.

        More than one takes another engine of the graph, which many runs alone are worth, cores that
        are not shared out already, and memory: libraries end the process where a thread that they
        start finds none.
        """
        worth = self.runs_ahead(runs) and self.backend.traits.gains_by_streams
        return STREAMS if worth and has_room(STREAMS_BYTES) else 1

    def runs_ahead(self, runs: int) -> bool:
        """Whether so many runs are best begun before the answers of earlier ones are worked on.

        These take a core, which must not be shared out already.
        """
        free = self._options.streams == 1 and self._options.threads != 1 and usable_cores() > 1
        return free and runs >= RUNS_IN_STREAMS

    def load(self, graph: str, meanwhile: Callable[[], None] | None = None) -> None:
        """Load `graph` now instead of on its first run.

        `meanwhile`: called in another thread once the graph is read and checked, while the backend
        makes it ready. Its errors are logged, for debugging alone: they are those of a later use.
        """
        with self._in_use(graph):
            self._engine(graph, meanwhile)

    @property
    def loads_ahead(self) -> bool:
        """Whether another graph may be loaded meanwhile: a core is free, and the backend can."""
        return self.backend.traits.parallel_loads and usable_cores() > 1

    def load_ahead(self, graph: str) -> None:
        """Begin to load `graph` in another thread, where a core and the backend allow it."""
        if self.loads_ahead:
            _once(partial(self.load, graph))()

    def is_loaded(self, graph: str) -> bool:
        """Whether `graph` is ready to run."""
        return (graph, 1) in self._engines

    def free(self, graph: str) -> None:
        """Free the engine of `graph`, which no other thread may be using; a later run loads it."""
        with self._in_use(graph), self._lock_of(graph):
            if (ready := self._engines.pop((graph, 1), None)) is not None:
                ready[0].close()

    def run(
        self, graph: str, feeds: Feeds, outputs: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute `outputs` of `graph`, None for all; they stay on the device.

        Raises CapabilityError when the bundle lacks the graph, ClosedError after `close`,
        EngineRunError when the backend fails, or an output is not what it must be, see
        `graph_outputs`.
        """
        with self._in_use(graph):
            return self._run(graph, feeds, outputs)[1]

    def compute(
        self, graph: str, feeds: Feeds, outputs: Sequence[str], streams: int = 1
    ) -> list[NDArray[np.float32]]:
        """Compute `outputs` of `graph` and copy them to the host as float32; raises as `run`.

        `streams`: of how many such runs at once this is one, see `streams_for`.
        """
        with self._in_use(graph):
            check, results = self._run(graph, feeds, outputs, streams)
            return [check.to_host(name, results[name]) for name in outputs]

    def to_host(self, graph: str, output: str, tensor: Tensor) -> NDArray[np.float32]:
        """Copy an output that `run` returned to the host as float32; raises as `run`."""
        with self._in_use(graph):
            return self._engine(graph)[1].to_host(output, tensor)

    def keep(self, graph: str, array: ForeignTensor, columns: int) -> CudaTensor | None:
        """Copy an image on a GPU into the memory of the engine of `graph`, see `Keeper`.

        None where the engine is not on that GPU. Raises as `run`.
        """
        with self._in_use(graph):
            engine, _ = self._engine(graph)
            return engine.keep(array, columns) if isinstance(engine, Keeper) else None

    def close(self) -> None:
        """Refuse new runs, wait for those under way, then free the engines.

        Closing again does nothing. When a signal handler calls this during a run of the same
        thread, that run frees the engines when it ends.
        """
        if self._is_forked():
            self._usage.abandon()  # the parent's engines are not this process's to free
        else:
            self._usage.close(self._free)

    def _free(self) -> None:
        engines, self._engines = self._engines, {}
        for engine, _ in engines.values():
            engine.close()

    def _is_forked(self) -> bool:
        return os.getpid() != self._process

    def _check_process(self) -> None:
        if self._is_forked():
            raise EngineRunError(
                "this model was loaded before the process forked. Call samclip.load() in the child."
            )

    @contextmanager
    def _in_use(self, graph: str) -> Iterator[None]:
        """Hold off `close`, and the freeing of a graph's shape, while a run is under way."""
        self._check_process()
        check_stack()
        stop_at_exit()
        with self._usage.hold(self._free), self._shapes.hold(graph):
            yield

    def _run(
        self, graph: str, feeds: Feeds, outputs: Sequence[str] | None, streams: int = 1
    ) -> tuple[OutputCheck, dict[str, Tensor]]:
        engine, check = self._engine(graph, streams=streams)
        check.check_tokens(feeds)
        with debug_time("ran %s", graph):
            results = engine.run(feeds, outputs)
        check.check(feeds, results)
        return check, results

    def _engine(
        self, graph: str, meanwhile: Callable[[], None] | None = None, *, streams: int = 1
    ) -> Checked:
        name = graph, streams
        ready = self._engines.get(name)  # without the lock: another graph may be loading
        if ready is not None:
            return ready
        with self._lock_of(graph):  # a signal handler may come here in the middle of a load
            if name not in self._engines:
                self._free_surplus()
                loaded = self._load(graph, meanwhile, streams=streams)
                if self._engines.setdefault(name, loaded) is not loaded:
                    loaded[0].close()
            return self._engines[name]

    def _lock_of(self, graph: str) -> threading.RLock:
        """Return what is held while a graph is loaded: one lock for all that load one by one."""
        key = graph if self.backend.traits.parallel_loads else ""
        return self._loading.setdefault(key, threading.RLock())

    def _free_surplus(self) -> None:
        """Free the engines of shapes beyond the bound, before others are loaded."""
        with self._shapes.lock:
            shapes = self._shapes.surplus()
            names = [name for name in self._engines if self._shapes.shape_of(name[0]) in shapes]
            engines = [self._engines.pop(name) for name in names]
        for engine, _ in engines:
            engine.close()
        if names:
            _logger.debug("freed %s", ", ".join(dict.fromkeys(graph for graph, _ in names)))

    def _load(
        self, graph: str, meanwhile: Callable[[], None] | None = None, *, streams: int = 1
    ) -> Checked:
        described = self._described(graph)
        precision = self._precision_of(graph, described)
        version = library_version(self.backend)
        begin = _once(meanwhile)
        if isinstance(self.backend, Hoarding):
            self.backend.release_memory()  # so that what only loading needs finds room
        shared = self._options if streams == 1 else self._options.in_streams(streams)
        kept = self._load_kept(graph, described, precision, shared, begin)
        if kept is not None:
            return kept, OutputCheck(graph, described, self.bundle.manifest)
        for notice in passed_over_notices(graph, described, self.backend.name, precision, version):
            _logger.info(notice)
        read = partial(self.bundle.source, graph, self.backend.name, precision, version)
        trial = None if self._make_trial is None else partial(self._make_trial, graph)
        source = replace(read(), again=read, trial=trial)
        rows = None if source.signature is None else source.signature.token_rows
        options = self._admitted(graph, source)
        if streams > 1:
            options = options.in_streams(streams)
        begin()
        with debug_time("made %s ready on %s", graph, self.backend.name):
            if streams > 1 and self.backend.traits.serves_one:
                each = replace(options, threads=options.threads_per_run(usable_cores()), streams=1)
                engine: Engine = SideBySide(partial(self.backend.load, source, each), streams)
            else:
                engine = self.backend.load(source, options)
        return engine, OutputCheck(graph, described, self.bundle.manifest, rows)

    def _load_kept(
        self,
        graph: str,
        described: Graph,
        precision: str | None,
        options: EngineOptions,
        begin: Callable[[], None],
    ) -> Engine | None:
        """Load a graph as an earlier load optimised it; None where nothing sound is kept."""
        variant = self._variant(described, precision)
        if variant is None or options.precision != FULL:
            return None
        if variant.file not in self.bundle.manifest.files:  # of a draft, whose files have no digest
            return None
        if not isinstance(self.backend, Keeping):
            return None
        load = self.backend.find_kept(self.bundle.graph_key(graph, variant), options)
        if load is None:
            return None
        begin()
        with debug_time(
            "made %s ready on %s, as it was optimised before", graph, self.backend.name
        ):
            return load()

    def _admitted(self, graph: str, source: GraphSource) -> EngineOptions:
        """Return the options of a graph's engine: in fewer bits only where it was judged here.

        The graph of texts runs as it is written: few runs of it make a vocabulary. Raises
        BackendUnavailableError for an encoder that must be computed in FP32.
        """
        if base_name(graph) in OF_TEXT:
            return replace(self._options, precision=FULL, optimise=False)
        precision = self._options.precision
        if precision == FULL:
            return self._options
        # brings in the gate, which few models need
        from samclip.engines.plans.gate.reduced import admit_graph  # noqa: PLC0415

        options = admit_graph(self.backend, source, self._options)
        if base_name(graph) == "encoder" and options.precision == FULL:
            raise BackendUnavailableError(
                f"the encoder of {self.bundle.manifest.name!r} does not compute in {precision} "
                "what it computes in FP32, on this machine. To do: leave engine_precision out."
            )
        return options

    def _described(self, graph: str) -> Graph:
        described = self.bundle.manifest.graph(graph)
        if described is None:
            raise CapabilityError(
                f"bundle {self.bundle.manifest.name!r} has no {graph} graph. "
                "Export it with one, or choose another bundle."
            )
        return described

    def _variant(self, graph: Graph, precision: str | None) -> Variant | None:
        return graph.variant_for(self.backend.name, precision, library_version(self.backend))

    def _precision_of(self, name: str, graph: Graph) -> str | None:
        """Return the precision asked for where `graph` has it, else None for its preferred variant.

        The encoder must have the precision asked for.
        """
        wanted = self._precision
        offered = self._variant(graph, wanted) is not None
        return wanted if base_name(name) == "encoder" or offered else None


def _once(work: Callable[[], None] | None) -> Callable[[], None]:
    """Return a function that begins `work` in another thread, the first time that it is called.

    Where no thread starts, the work is left to its use. `Thread.start` would wait forever for a
    thread that finds no memory to begin.
    """
    waiting = [] if work is None else [work]

    def begin() -> None:
        while waiting:
            try:
                _thread.start_new_thread(_try, (waiting.pop(),))
            except RuntimeError as error:
                _logger.debug("nothing is begun ahead of its use: %s", error)

    return begin


def _try(work: Callable[[], None]) -> None:
    """Do work ahead of its use, which meets the same error if there is one."""
    try:
        with call_under_way():
            work()
    except Exception:  # whatever it is, the use raises it
        _logger.debug("what was begun ahead of its use failed", exc_info=True)


def check_stack() -> None:
    """Refuse a thread whose stack is too small for the libraries, which would end the process.

    Raises EngineRunError where `threading.stack_size` is set below LEAST_STACK.
    """
    size = threading.stack_size()
    if 0 < size < LEAST_STACK and threading.current_thread() is not threading.main_thread():
        raise EngineRunError(
            f"threading.stack_size is set to {size:,} bytes, expected {LEAST_STACK:,} or more: "
            "graphs need that much of a thread's stack. Set it before the thread starts."
        )


def passed_over_notices(
    name: str, graph: Graph, backend: str, precision: str | None, version: str | None
) -> tuple[str, ...]:
    """Return a notice for each variant that a newer library would take instead of the chosen one.

    `name`: that of the graph; the other arguments are those of `Graph.variant_for`. Empty where
    the preferred variant is taken.
    """
    chosen = graph.variant_for(backend, precision, version)
    if chosen is None:
        return ()
    here = f"here is {version}" if version else "its version here is unknown"
    return tuple(
        f"{name}: {variant.file} is passed over for {chosen.file}: it needs {backend} "
        f"{need.version} or newer, {here}"
        for variant, need in graph.passed_over(backend, precision, version)
    )


class Usage:
    """The uses under way of a resource that is freed once it is closed and no longer used.

    Any method may be called from any thread, and from a signal handler that interrupts a use.
    `free` is passed to each call, because storing it would keep its owner alive; it may be called
    twice, and must do nothing the second time.
    """

    def __init__(self) -> None:
        # Re-entrant, for signal handlers. The lock is taken directly, not through the condition:
        # Ctrl-C inside `Condition.__exit__`, which is Python code, would leave it locked.
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._threads: WeakKeyDictionary[_Use, int] = WeakKeyDictionary()  # of uses under way
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @contextmanager
    def hold(self, free: Callable[[], None]) -> Iterator[None]:
        """Hold off the freeing while the block runs; raises ClosedError after `close`.

        Ctrl-C may raise between any two steps. A use is therefore removed even if it was not yet
        added; a use that could not be removed disappears with this call's frame, because the
        table refers to it weakly.
        """
        use = _Use()
        try:
            with self._lock:
                if self._closed:
                    raise ClosedError("the model is closed. Load it again with samclip.load().")
                self._threads[use] = threading.get_ident()
            yield
        finally:
            with self._lock:
                self._threads.pop(use, None)
                self._ended.notify_all()
                is_last = self._closed and not self._threads
            if is_last:
                free()

    def close(self, free: Callable[[], None]) -> None:
        """Refuse new uses, wait for those of other threads, then free; closing again waits too.

        A use of the calling thread cannot end before this returns; it frees when it ends.
        """
        me = threading.get_ident()
        with self._lock:
            self._closed = True
            while any(thread != me for thread in list(self._threads.values())):
                self._ended.wait(LOOK_SECONDS)
            is_free = not self._threads
        if is_free:
            free()

    def abandon(self) -> None:
        """Refuse new uses and free nothing, as in a forked child: the parent owns the resource."""
        self._closed = True


class _Use:
    """A token for one use under way."""
