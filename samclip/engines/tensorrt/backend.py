"""TensorRT and TensorRT for RTX: backends that run plans which were built beforehand.

A plan is taken only through `find_plan`, which checks its sidecar against this machine and the
graph, and its bytes against the sidecar. Nothing is built here: that takes minutes, and is asked
for by name.

Whether a bundle has plans of all its graphs is read from sidecars alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samclip.engines import backend_names
from samclip.engines.backend_names import LibraryName
from samclip.engines.base import EngineOptions, GraphKey, GraphSource, Probe, Traits, unavailable
from samclip.engines.plans.match import PlanHost, find_plan, fits
from samclip.engines.plans.sidecar import BuiltGraph, build_step, identify_key
from samclip.engines.plans.store import list_plans, search_folders
from samclip.engines.steps import BuildPlans
from samclip.engines.tensorrt.library import (
    installed_version,
    open_for_running,
    probe_library,
)
from samclip.errors import BackendUnavailableError

if TYPE_CHECKING:
    from samclip.engines.tensorrt.engine import TrtEngine


def missing_plans(graphs: Sequence[GraphKey], host: PlanHost) -> Probe:
    """Return whether all graphs have plans that fit, else which do not and how to build them."""
    wanted = [identify_key(key) for key in graphs]
    stored = list_plans(dict.fromkeys(f for graph in wanted for f in search_folders(graph.origin)))
    missing = [graph for graph in wanted if not any(fits(plan, graph, host) for plan in stored)]
    if not missing:
        return Probe(True, f"plans of {', '.join(graph.name for graph in wanted)}")
    listed = ", ".join(f"{graph.name} ({graph.precision})" for graph in missing)
    return Probe(
        False,
        f"no plan was built for {listed} with {host.library} {host.version} and compute capability "
        f"{host.capability}",
        f"build {'it' if len(missing) == 1 else 'them'} on this machine, once",
        _steps(wanted, missing, host),
    )


def _steps(
    wanted: Sequence[BuiltGraph], missing: Sequence[BuiltGraph], host: PlanHost
) -> tuple[BuildPlans, ...]:
    """Return one step for all graphs where it serves, else one for each."""
    places = {graph.origin for graph in missing}
    if len(missing) == len(wanted) and len(places) == 1 and places != {""}:
        precisions = {graph.precision for graph in missing}
        precision = precisions.pop() if len(precisions) == 1 else None
        return (BuildPlans(origin=places.pop(), backend=host.library, precision=precision),)
    steps = [build_step(graph, host.library, host.capability) for graph in missing]
    return tuple(dict.fromkeys(steps))


@dataclass(frozen=True)
class TensorRtBackend:
    """One of the two libraries; `fused_attention` as in `Traits`."""

    name: LibraryName
    fused_attention: str

    @property
    def traits(self) -> Traits:
        """What it runs best: attention with an additive bias, which it fuses."""
        return Traits(
            lowerings=("bias", "wide", "chunk", "fold"),
            precisions=("int8_fp16", "fp16", "bf16"),
            fused_attention=self.fused_attention,
            captures_graphs=True,
        )

    @property
    def version(self) -> str | None:
        """The library's version, by which variants are chosen; None when it is unknown."""
        return installed_version(self.name)

    def probe(self) -> Probe:
        """Return whether driver, library and a CUDA package are here; import none of them."""
        return probe_library(self.name)

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Return whether every graph has a plan that fits this machine; read sidecars alone."""
        try:
            _, host = open_for_running(self.name, options.device)
        except BackendUnavailableError as error:
            return unavailable(error)
        return missing_plans(graphs, host)

    def load(self, source: GraphSource, options: EngineOptions) -> TrtEngine:
        """Run the plan of `source`, once it was judged; its first run is that of the canary.

        Raises BackendUnavailableError; PlanError, whose `steps` build the plan;
        EngineRunError, as DeviceMemoryError where memory is short.
        """
        # what only plans need, and what takes other backends longer to start
        from samclip.engines.plans.gate.admission import admit, check_canary  # noqa: PLC0415
        from samclip.engines.tensorrt.kernels import kernel_file  # noqa: PLC0415
        from samclip.engines.tensorrt.reader import reads_in_pieces  # noqa: PLC0415
        from samclip.engines.tensorrt.start import start_engine  # noqa: PLC0415

        library, host = open_for_running(self.name, options.device)
        plan = find_plan(source, host, in_pieces=reads_in_pieces(library))
        verdict = admit(plan, source, library)
        is_stripped = plan.sidecar.options.strip_weights
        if not is_stripped:
            source.release()  # the plan has its own
        kernels = kernel_file(plan.path, library)
        engine = start_engine(library, plan.data, is_stripped, source, options, kernels)
        try:
            check_canary(engine, verdict.canary, plan, source.origin)
            engine.save_kernels()  # now: a process that is killed closes nothing
        except BaseException:
            engine.close()
            raise
        return engine


TENSORRT = TensorRtBackend(backend_names.TENSORRT, fused_attention="10.14")  # by its release notes
TENSORRT_RTX = TensorRtBackend(backend_names.TENSORRT_RTX, fused_attention="1.7")  # the one tried
