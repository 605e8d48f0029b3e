"""TensorRT and TensorRT for RTX as libraries that run plans: opened only where a driver answers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from samclip.engines.backend_names import LibraryName
from samclip.engines.base import Probe
from samclip.engines.cuda.device import describe_cuda_package, missing_for_cuda
from samclip.engines.onnxruntime.library import clean_message
from samclip.engines.plans.build_log import listening, shared_logger
from samclip.engines.plans.library import KINDS, Library, open_library
from samclip.engines.plans.match import PlanHost, host_of
from samclip.engines.plans.own_files import PlanBytes, VerifiedFile
from samclip.engines.process_edges import keep_in_children
from samclip.engines.steps import BuildPlans
from samclip.engines.tensorrt.kernels import Kernels
from samclip.engines.tensorrt.reader import make_reader
from samclip.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    EngineRunError,
    PlanForeignError,
)

SUFFIXES = ("", "-cu13", "-cu12", "_lean", "-lean-cu13")
MEMORY_WORDS = ("out of memory", "outofmemory", "cuda_error_out_of_memory", "insufficient memory")


def probe_library(name: LibraryName) -> Probe:
    """Return whether a library and all that runs its plans are here; import and load nothing.

    The first that is missing is named, in the order of repair: driver, library, package.
    """
    kind = KINDS[name]
    found = _describe(name)
    lacks_cuda = missing_for_cuda()
    if lacks_cuda is not None and "driver" in lacks_cuda[0]:
        state = f"; {found} is installed" if found else f"; {name} is not installed"
        return Probe(False, lacks_cuda[0] + state, lacks_cuda[1])
    if not found:
        return Probe(False, f"{name} is not installed", kind.install)
    if lacks_cuda is not None:
        return Probe(False, f"{found} is installed; {lacks_cuda[0]}", lacks_cuda[1])
    return Probe(True, f"{found}, {describe_cuda_package()}")


def open_for_running(name: LibraryName, device: int) -> tuple[Library, PlanHost]:
    """Import a library once the driver has answered in another process; return the host of plans.

    Raises BackendUnavailableError, which says what is missing and what to do.
    """
    probe = probe_library(name)
    if not probe.available:
        raise BackendUnavailableError(f"{name}: {probe.detail}. To do: {probe.remedy}.")
    library = open_library(name, device)
    host = host_of(library)
    if host is None:
        raise BackendUnavailableError(
            f"{name}: {library.state.reason}. To do: check nvidia-smi, CUDA_VISIBLE_DEVICES and "
            "that the container was started with its GPU."
        )
    return library, host


def installed_version(name: LibraryName) -> str | None:
    """Return a library's version: of its package, else by importing it where a driver answers."""
    found = _packaged_version(name)
    if found is not None:
        return found
    try:
        _, host = open_for_running(name, device=0)
    except BackendUnavailableError:
        return None
    return host.version


class LoadedPlan:
    """A deserialised plan: TensorRT's `engine`, and the runtime, which must outlive it.

    `kernels`: those of a library that compiles them on the GPU.
    """

    def __init__(self, runtime: Any, engine: Any) -> None:
        self._runtime = runtime
        self.engine = engine
        self.kernels: Kernels | None = None
        keep_in_children(self)

    def create_context(self) -> Any:
        """Create an execution context; None where TensorRT gives none."""
        if self.kernels is not None:
            return self.kernels.create_context()
        return self.engine.create_execution_context()

    def save_kernels(self) -> None:
        """Keep kernels that were compiled since; a primary context is current, no run in flight."""
        if self.kernels is not None:
            self.kernels.save()

    def close(self) -> None:
        """Free all in order; the engine's contexts are gone, and a primary context is current."""
        if self.kernels is not None:
            self.kernels.close()
        self.engine = None
        self._runtime = None


def deserialize(library: Library, plan: PlanBytes, graph: str) -> LoadedPlan:
    """Deserialise a verified plan into an engine.

    A primary context is current. Programs inside plans stay forbidden. Raises EngineRunError, as
    DeviceMemoryError where memory is short; PlanForeignError when TensorRT refuses the plan, which
    its sidecar did not foresee.
    """
    runtime = library.module.Runtime(shared_logger(library.module))
    if runtime.engine_host_code_allowed:
        raise EngineRunError(
            "TensorRT is set to run programs inside plans, and samclip never does. Leave "
            "engine_host_code_allowed off."
        )
    reader = make_reader(library.module, plan) if isinstance(plan, VerifiedFile) else None
    with listening() as said:
        engine = runtime.deserialize_cuda_engine(plan if reader is None else reader)
    if reader is not None and reader.fault is not None:
        raise reader.fault
    if engine is None:
        refused = EngineRunError(f"{library.name} {library.version} refuses the plan.")
        error = explain(refused, graph, said.errors)
        if isinstance(error, DeviceMemoryError):
            raise error
        raise PlanForeignError(
            f"{library.name} {library.version} refuses the plan of {graph!r}, which another build "
            f"of it may have made. It says: {_joined(said.errors)}. Build the plan again on this "
            "machine.",
            steps=(BuildPlans(backend=library.name, graphs=(graph,), force=True),),
        )
    return LoadedPlan(runtime, engine)


def explain(error: EngineRunError, graph: str, said: Sequence[str]) -> EngineRunError:
    """Return `error` with TensorRT's messages added; a lack of memory is a DeviceMemoryError."""
    message = f"the graph {graph!r} failed: {error} TensorRT says: {_joined(said)}."
    short = any(word in line.lower() for line in said for word in MEMORY_WORDS)
    if short or isinstance(error, DeviceMemoryError):
        return DeviceMemoryError(
            f"{message} The GPU has too little free memory: close other models and programs on it, "
            "send fewer prompts at once, or choose a smaller bundle or precision."
        )
    return EngineRunError(
        f"{message} Check the shapes of its inputs; if that does not help, build the plan again.",
        steps=(BuildPlans(graphs=(graph,)),),
    )


def _joined(said: Sequence[str]) -> str:
    lines = dict.fromkeys(clean_message(RuntimeError(line)) for line in said)
    return "; ".join(lines) or "nothing"


def _describe(name: LibraryName) -> str:
    """Return a library's name and version; "" when it is not installed."""
    if importlib.util.find_spec(KINDS[name].module) is None:
        return ""
    return " ".join(part for part in (name, _packaged_version(name)) if part)


def _packaged_version(name: LibraryName) -> str | None:
    """Read a library's version off its package; None without one, as where it was unpacked."""
    if importlib.util.find_spec(KINDS[name].module) is None:
        return None
    for suffix in SUFFIXES:
        with contextlib.suppress(PackageNotFoundError):
            return version(name + suffix)
    return None
