"""TensorRT and TensorRT for RTX: backends that run plans which `samclip engine build` made.

A plan is taken only through `find_plan`, which checks its sidecar against this machine and the
graph, and its bytes against the sidecar. Nothing is built here: that takes minutes, and is asked
for by name.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from samclip.engines.base import EngineOptions, GraphKey, GraphSource, Probe
from samclip.engines.cuda.device import open_device
from samclip.engines.cuda.memory import DeviceMemory
from samclip.engines.plans.find import Plan, find_plan
from samclip.engines.plans.library import Library
from samclip.engines.plans.sidecar import LibraryName
from samclip.engines.tensorrt.engine import TrtEngine
from samclip.engines.tensorrt.library import (
    deserialize,
    installed_version,
    open_for_running,
    probe_library,
)
from samclip.engines.tensorrt.ready import missing_plans
from samclip.engines.tensorrt.refit import refit
from samclip.engines.tensorrt.signature import read_signature
from samclip.errors import BackendUnavailableError


@dataclass(frozen=True)
class TensorRtBackend:
    """One of the two libraries."""

    name: LibraryName

    @property
    def version(self) -> str | None:
        """The library's version, by which variants are chosen; None when it is not to be told."""
        return installed_version(self.name)

    def probe(self) -> Probe:
        """Look whether driver, library and a CUDA package are here; imports none of them."""
        return probe_library(self.name)

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Look whether every graph has a plan that fits this machine; reads sidecars alone."""
        try:
            _, host = open_for_running(self.name, options.device)
        except BackendUnavailableError as error:
            detail, _, remedy = str(error).partition("To do: ")
            return Probe(False, detail.rstrip(". "), remedy.rstrip(". "))
        return missing_plans(graphs, host)

    def load(self, source: GraphSource, options: EngineOptions) -> TrtEngine:
        """Run the plan of `source`.

        Raises BackendUnavailableError; PlanError, which has the command that builds the plan;
        EngineRunError, as DeviceMemoryError where memory is short.
        """
        library, host = open_for_running(self.name, options.device)
        plan = find_plan(source, host)
        memory = DeviceMemory(open_device(options.device))
        try:
            return _start(library, plan, source, memory, options)
        except BaseException as error:
            # What TensorRT has made must go before the context that it was made in.
            traceback.clear_frames(error.__traceback__)
            memory.close()
            raise


TENSORRT = TensorRtBackend("tensorrt")
TENSORRT_RTX = TensorRtBackend("tensorrt-rtx")


def _start(
    library: Library,
    plan: Plan,
    source: GraphSource,
    memory: DeviceMemory,
    options: EngineOptions,
) -> TrtEngine:
    with memory.device.active():
        loaded = deserialize(library, plan.data, source.name)
        try:
            if plan.sidecar.options.strip_weights:
                refit(library, loaded.engine, source)
            signature = read_signature(library.module, loaded.engine, source.name)
            return TrtEngine(loaded, signature, memory, options)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            loaded.close()
            raise
