"""ONNX Runtime on the CPU, and on NVIDIA GPUs through its CUDA and TensorRT providers.

Choices. Threads: one per physical core that this process may use, not pinned. CPU memory: all
sessions work in one arena (`arena.py`), which keeps its memory until a graph is loaded or closed,
because giving it back after each pass costs time; memory patterns are off, which plan one more
block of that size and gain no speed; so is the plan by which tensors take over each other's
buffers, as it holds the buffers in between, and the arena reuses memory better (ViT-B at 1024 px:
half the peak, no slower); a sum and the norm behind it are not fused, as the fused kernel takes
twice the time of the two. CUDA: the arena grows by what is asked for, convolutions are chosen by
heuristic, because the mask decoder's shapes change from call to call, and TF32 is off: FP32 graphs
compute in FP32, FP16 graphs are there for speed. TensorRT: see `tensorrt_options` in `library.py`;
CUDA computes the nodes that TensorRT refuses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.disk.cache_folder import warn_unusable
from samclip.engines.backend_names import CUDA as CUDA_NAME
from samclip.engines.backend_names import ONNXRUNTIME, ORT_TENSORRT
from samclip.engines.base import (
    REMEDY,
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
    unavailable,
    wrong_type,
)
from samclip.engines.dlpack import CUDA as CUDA_DEVICE
from samclip.engines.dlpack import Placed
from samclip.engines.machine.device import (
    computes_bf16_on_arm,
    describe_processor,
    saturates_int8,
)
from samclip.engines.machine.host import (
    HERE,
    is_fault,
    is_shortage,
    release_free_memory,
    shortage,
    usable_cores,
)
from samclip.engines.onnxruntime import arena
from samclip.engines.onnxruntime.kept import Kept, is_worth_keeping, place_of
from samclip.engines.onnxruntime.library import (
    CUDA_PROVIDER,
    NAME,
    TENSORRT_PROVIDER,
    clean_message,
    conflict,
    get_gpu_build,
    import_cuda_library,
    import_library,
    is_initializer,
    preload,
    tensorrt_options,
)
from samclip.engines.onnxruntime.trace import Trace
from samclip.engines.plans.sidecar import BuiltGraph, identify, identify_key
from samclip.engines.precision_probe import probe_precision
from samclip.engines.process_edges import keep_in_children
from samclip.engines.profile import ProfiledRun, not_profiled
from samclip.errors import BackendUnavailableError

# what `session.get_inputs()` calls the dtypes that graphs of bundles take
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}

CPU_PROVIDER = "CPUExecutionProvider"
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
BF16_PRODUCTS = "mlas.enable_gemm_fastmath_arm64_bfloat16"  # of FP32 matrices
# Q/DQ pairs are then computed in FP32: slower, and right.
EXACT_INT8 = "session.disable_quant_qdq"
# A session's threads spin while they wait for work, by default for some milliseconds after a run,
# too, where they take the cores from the next graph's session. Where there are two cores they also
# take them from other programs, and from each other: there they sleep at once.
MAY_SPIN, REST_AFTER_RUNS = "session.intra_op.allow_spinning", "session.force_spinning_stop"
FEW_CORES = 2
SLOW_ON_CPU = ["SkipLayerNormFusion"]
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}


class OrtTensor:
    """An output of ONNX Runtime, on its device; it outlives the engine that made it.

    `index`: the number of its GPU, if it is on one.
    """

    def __init__(self, value: Any, index: int = 0) -> None:
        self._value = value
        self._index = index
        self.type: str = value.data_type()
        keep_in_children(self)  # its memory goes back to an arena that a thread may have locked

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return tuple(self._value.shape())

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return DTYPES[self.type]

    @property
    def value(self) -> Any:
        """ONNX Runtime's own `OrtValue`."""
        return self._value

    def is_on(self, device: str, index: int = 0) -> bool:
        """Whether it is on `device`, "cpu" or "cuda", and there on the GPU number `index`."""
        is_of_kind = bool(self._value.device_name().lower() == device)
        return is_of_kind and (device == "cpu" or self._index == index)

    def on_host(self) -> NDArray[np.generic] | None:
        """Return the data without copying it; None when it is on a GPU."""
        return self.numpy() if self.is_on("cpu") else None

    def lend(self) -> Placed | None:
        """Return the data's place on a GPU, for a library that keeps this; None on the host.

        Once this goes, ONNX Runtime uses the memory again without waiting for that library.
        """
        if not self.is_on("cuda"):
            return None
        return Placed((CUDA_DEVICE, self._index), self._value.data_ptr(), self.shape, self.dtype)

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host."""
        array = np.asarray(self._value.numpy())
        keep_in_children(array)  # on the CPU it is the tensor's own memory
        return array


def to_ort_value(
    library: Any,
    name: str,
    feed: NDArray[np.generic] | Tensor,
    expected: str,
    device: str,
    index: int = 0,
) -> Any:
    """Return a feed as an `OrtValue`, without copying where dtype, order and device allow it.

    `expected` is ONNX Runtime's name of the input's type; no dtype is converted. Raises
    EngineRunError.
    """
    if isinstance(feed, OrtTensor) and (feed.is_on("cpu") or feed.is_on(device, index)):
        if feed.type != expected:
            raise wrong_type(name, feed.type, DTYPES.get(expected, expected))
        return feed.value
    array = feed if isinstance(feed, np.ndarray) else feed.numpy()
    if array.dtype != DTYPES.get(expected):
        raise wrong_type(name, array.dtype, DTYPES.get(expected, expected))
    return library.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))


class OrtEngine(GuardedEngine):
    """One graph in an ONNX Runtime session; `device` is "cpu" or "cuda", `index` its number."""

    def __init__(
        self,
        library: Any,
        session: Any,
        name: str,
        device: str,
        index: int,
        held: Any = None,
        trace: Trace | None = None,
    ) -> None:
        self._library = library
        self._trace = trace
        self._session: Any = session
        self._device, self._index = device, index
        self._held = held  # memory that the session reads
        self._types = {node.name: node.type for node in session.get_inputs()}
        outputs = {node.name: node.type for node in session.get_outputs()}
        if odd := {kind for kind in outputs.values() if kind not in DTYPES}:
            reason = f"it computes {', '.join(sorted(odd))}, not an array of numbers"
            raise not_loadable(name, "onnxruntime", reason)
        self._guard = Guard(name, tuple(self._types), tuple(outputs))
        keep_in_children(self)

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all); they stay on the device until `numpy()` is called.

        Raises EngineRunError for inputs that do not fit or when ONNX Runtime fails, ClosedError
        after `close()`.
        """
        session = self._guard.check_open(self._session)
        names = self._guard.check_names(feeds, outputs)
        values = {
            name: to_ort_value(
                self._library, name, feed, self._types[name], self._device, self._index
            )
            for name, feed in feeds.items()
        }
        if not names:
            return {}
        try:
            results = self._compute(session, names, values)
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, NAME):
                raise
            if is_shortage(error):
                raise shortage(clean_message(error), _owner(self._device)) from error
            raise self._guard.failed(clean_message(error)) from error
        return {
            name: OrtTensor(value, self._index) for name, value in zip(names, results, strict=True)
        }

    def end_profile(self) -> tuple[ProfiledRun, ...]:
        """Return all runs so far, as `Profiled` says."""
        session = self._guard.check_open(self._session)
        trace, self._trace = self._trace, None
        if trace is None:
            raise not_profiled(self._guard.graph)
        return trace.read(session, self._guard.graph)

    def close(self) -> None:
        """Free the session once the runs in flight have ended; again: do nothing."""
        if self._session is not None and self._guard.is_here():
            self._session = None
            self._held = self._trace = None
            arena.give_back(self._library)

    def _compute(self, session: Any, names: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
        if self._device == "cpu":
            return list(session.run_with_ort_values(names, values))
        binding = session.io_binding()  # one per call: a binding holds the call's tensors
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._device, self._index)
        session.run_with_iobinding(binding)
        return list(binding.get_outputs())


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """ONNX Runtime with one of its providers; `device` is "cpu" or "cuda"."""

    name: str
    provider: str
    device: str
    traits: Traits

    def probe(self) -> Probe:
        """Return whether ONNX Runtime and the provider are here; load no CUDA library."""
        try:
            library = self._library()
        except BackendUnavailableError as error:
            return unavailable(error)
        detail = f"onnxruntime {library.__version__}, {self.provider}"
        if clash := conflict(library):
            return Probe(True, f"{detail}; {clash}", get_gpu_build())
        return Probe(True, detail)

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:  # noqa: ARG002
        """Return that any graph runs at once: sessions need no plans."""
        return Probe(True, "needs no plans")

    @property
    def precision_facts(self) -> tuple[str, ...]:
        """Return what answers in BF16 depend on besides the graph: processor and version."""
        return (*describe_processor(), self._library().__version__)

    def probe_precision(self, precision: EnginePrecision, *, ask: bool = True) -> Probe:
        """Return whether this machine computes faster in `precision`, see `Reducing`."""
        if precision not in self.traits.engine_precisions:
            detail = f"{self.name} has {precision} on Arm processors with its instructions alone"
            return Probe(False, detail, "leave engine_precision out, or choose another backend")
        found = self.probe()
        if not found.available:
            return found
        return probe_precision(self.name, precision, self.precision_facts, ask=ask)

    def time_layers(self, precision: EnginePrecision) -> Times:
        """Time a product, see `Reducing`."""
        # for a separate process alone
        from samclip.engines.onnxruntime.precision_layers import time_layers  # noqa: PLC0415

        return time_layers(self, precision)

    def load(self, source: GraphSource, options: EngineOptions) -> OrtEngine:
        """Start a session of a graph; raises BackendUnavailableError or EngineRunError."""
        library = self._library()
        providers = self._providers(library, source, options)
        kept = self._place_of(library, identify(source), options)
        try:
            settings = self._settings(library, options)
            trace = Trace(settings) if options.profile else None
            held = _add_weights(library, settings, source)
            session = self._start(library, source, settings, providers, kept)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if not is_fault(error, NAME):
                raise
            if is_shortage(error):
                raise shortage(clean_message(error), _owner(self.device)) from error
            if self.device != "cpu" and isinstance(error, RuntimeError | ValueError):
                raise self._fallen_back(library, options.device) from error  # not the graph's fault
            raise not_loadable(source.name, self.name, clean_message(error)) from error
        if self.provider not in session.get_providers():  # it falls back without an error
            raise self._fallen_back(library, options.device)
        release_free_memory()
        return OrtEngine(library, session, source.name, self.device, options.device, held, trace)

    def release_memory(self) -> None:
        """Empty the arena of the process, see `Hoarding`."""
        if self.device == "cpu":
            arena.give_back(self._library())

    def find_kept(
        self, graph: GraphKey, options: EngineOptions
    ) -> Callable[[], OrtEngine | None] | None:
        """Return what loads a graph as an earlier load optimised it, see `Keeping`."""
        library = self._library()
        kept = self._place_of(library, identify_key(graph), options)
        if kept is None or not kept.is_there():
            return None
        return partial(self._load_kept, library, graph.name, options, kept)

    def _load_kept(
        self, library: Any, name: str, options: EngineOptions, kept: Kept
    ) -> OrtEngine | None:
        graph = kept.read()
        if graph is None:
            return None
        settings = self._settings(library, options, str(kept.place))
        settings.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = library.InferenceSession(
                graph, settings, providers=[CPU_PROVIDER], enable_fallback=0
            )
        except Exception as error:  # its exceptions share no base class
            if not is_fault(error, NAME):
                raise
            if is_shortage(error):
                raise shortage(clean_message(error), _owner(self.device)) from error
            kept.remove(clean_message(error))
            return None
        return OrtEngine(library, session, name, self.device, options.device)

    def _place_of(self, library: Any, graph: BuiltGraph, options: EngineOptions) -> Kept | None:
        """Return where the session of a graph is kept; None where it is not."""
        if self.device != "cpu" or options.profile or not options.optimise:
            return None
        exact = (EXACT_INT8,) if saturates_int8() else ()
        return place_of(library, graph, (*SLOW_ON_CPU, *exact))

    def _settings(self, library: Any, options: EngineOptions, folder: str = os.devnull) -> Any:
        settings = _settings(library, options, self.device, folder)
        if self.device == "cpu":
            arena.share(library, settings)
        return settings

    def _start(
        self,
        library: Any,
        source: GraphSource,
        settings: Any,
        providers: Sequence[Any],
        kept: Kept | None,
    ) -> Any:
        """Start a session, and keep it where that is worth it."""
        start = partial(
            library.InferenceSession,
            source.onnx,
            settings,
            providers=providers,
            enable_fallback=0,
            disabled_optimizers=SLOW_ON_CPU if self.device == "cpu" else None,
        )
        if kept is None or not is_worth_keeping(source):
            return start()
        session = None
        try:
            with kept.written(settings):
                session = start()
        except OSError as error:
            warn_unusable(kept.folder.parent, error)
        return start() if session is None else session

    def _providers(self, library: Any, source: GraphSource, options: EngineOptions) -> list[Any]:
        """List the providers with their options, the preferred one first."""
        providers: list[Any] = [CPU_PROVIDER]
        if self.device == "cuda":
            preload(library)
            providers.insert(0, (CUDA_PROVIDER, {**CUDA_OPTIONS, "device_id": options.device}))
        if self.provider == TENSORRT_PROVIDER:
            settings = tensorrt_options(library, source, options.device)
            providers.insert(0, (self.provider, settings))
        return providers

    def _fallen_back(self, library: Any, index: int) -> BackendUnavailableError:
        needs = "TensorRT, CUDA or cuDNN" if self.provider == TENSORRT_PROVIDER else "CUDA or cuDNN"
        return BackendUnavailableError(
            f"onnxruntime {library.__version__} could not start {self.provider} on device {index}: "
            f"no such GPU, or its {needs} libraries are missing or of another version. "
            f"{REMEDY}install those it was built for (pip install 'onnxruntime-gpu[cuda,cudnn]'), "
            "or use backend='onnxruntime'."
        )

    def _library(self) -> Any:
        return import_cuda_library(self.provider) if self.device == "cuda" else import_library()


CPU = OnnxRuntimeBackend(
    name=ONNXRUNTIME,
    provider=CPU_PROVIDER,
    device="cpu",
    traits=Traits(
        lowerings=(
            "chunk",
            "wide",
            "bias",
            "fold",
        ),  # it wants bounded score tensors: docs/evidence/cpu.md
        precisions=("int8",),  # it has no kernels for FP16 and BF16
        contrib_operators=True,
        on_host=True,
        gains_by_streams=True,
        profiles=True,
        parallel_loads=True,
        engine_precisions=("bf16",) if computes_bf16_on_arm() else (),
    ),
)
CUDA = OnnxRuntimeBackend(
    name=CUDA_NAME,
    provider=CUDA_PROVIDER,
    device="cuda",
    traits=Traits(
        lowerings=("bias", "wide", "chunk", "fold"),
        precisions=("fp16", "bf16"),  # INT8 it would only convert, having no integer products
        contrib_operators=True,
        profiles=True,
    ),
)
TENSORRT = OnnxRuntimeBackend(
    name=ORT_TENSORRT,
    provider=TENSORRT_PROVIDER,
    device="cuda",
    traits=Traits(
        lowerings=("bias", "wide", "chunk", "fold"),
        precisions=("int8_fp16", "fp16", "bf16"),
        int8_weights=False,
        by_name_alone=True,  # it builds for minutes on its first runs
    ),
)


def _owner(device: str) -> str:
    """Whose memory a graph runs in, for errors."""
    return HERE if device == "cpu" else "the GPU"


def _settings(library: Any, options: EngineOptions, device: str, folder: str) -> Any:
    """Return settings of a session that reads external data from files in `folder` alone.

    Without one it would read what a graph names, unverified.
    """
    settings = library.SessionOptions()
    settings.intra_op_num_threads = options.threads_per_run(usable_cores())
    settings.log_severity_level = arena.FATAL
    settings.enable_mem_pattern = False
    settings.enable_mem_reuse = device != "cpu"
    if not options.optimise:
        settings.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry(EXTERNAL_FOLDER, folder)
    if options.precision == "bf16" and not options.fp32_outputs:  # it cannot tell outputs apart
        settings.add_session_config_entry(BF16_PRODUCTS, "1")
    if device == "cpu":
        settings.add_session_config_entry(REST_AFTER_RUNS, "1")
        if usable_cores() <= FEW_CORES:
            settings.add_session_config_entry(MAY_SPIN, "0")
        if saturates_int8():
            settings.add_session_config_entry(EXACT_INT8, "1")
    return settings


def _add_weights(library: Any, settings: Any, source: GraphSource) -> Any:
    """Hand over the external data; return what must live as long as the session.

    ONNX Runtime copies what it uses of a file in memory, which may go. Before 1.24 it takes tensors
    by name alone, only those of this graph, and may read them later.
    """
    if source.files and hasattr(settings, "add_external_initializers_from_files_in_memory"):
        files = list(source.files.values())
        sizes = [len(data) for data in files]
        settings.add_external_initializers_from_files_in_memory(list(source.files), files, sizes)
        return None
    used = {n: w for n, w in source.weights.items() if is_initializer(source.onnx, n)}
    values = [library.OrtValue.ortvalue_from_numpy(weight) for weight in used.values()]
    settings.add_external_initializers(list(used), values)
    return values
