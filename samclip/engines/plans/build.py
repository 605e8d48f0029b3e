"""Graphs built into plans, which are put where the runtime finds them.

A plan that equals the one asked for is not built again; a new plan replaces its former builds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from samclip.engines.backend_names import target_name
from samclip.engines.plans.attempts import first_right
from samclip.engines.plans.attention_layers import split_attention, widen_attention
from samclip.engines.plans.build_log import Said, listening, make_monitor, shared_logger
from samclip.engines.plans.equal import find_equal, remove_superseded
from samclip.engines.plans.gate.building import judge_new, judge_stored
from samclip.engines.plans.library import Library
from samclip.engines.plans.match import gate_error, system_name
from samclip.engines.plans.network import (
    Network,
    add_profile,
    describe_tensors,
    parse_network,
    used_axes,
)
from samclip.engines.plans.preflight import check_memory, default_workspace
from samclip.engines.plans.request import BuildRequest, BuiltPlan
from samclip.engines.plans.sidecar import (
    AxisRange,
    BuiltFor,
    PlanFile,
    PlanTensor,
    Sidecar,
    identify,
)
from samclip.engines.plans.store import StoredPlan, plan_folder, write_plan
from samclip.engines.plans.timing_cache import load_timings, only_build, save_timings, timing_file
from samclip.engines.steps import ChangeSettings, ExportBundle
from samclip.errors import PlanBuildError
from samclip.progress import SILENT, Progress
from samclip.version import __version__

NOT_WRITTEN = PlanFile(size=0, sha256="0" * 64)  # until `write_plan` fills it in


def build_plan(request: BuildRequest, library: Library, progress: Progress = SILENT) -> BuiltPlan:
    """Build the plan of one graph, or return an equal one; one build at a time on a machine.

    The plan is judged before it is written, if this machine can run it. Raises PlanBuildError, with
    the library's messages, when the build fails; PlanGateError when the plan is wrong, and so are
    all that could take its place: none of them is written.
    """
    with only_build(progress), listening() as said:
        equal = None if request.force else find_equal(request, library)
        if equal is not None:
            return BuiltPlan(judge_stored(equal, request, library, progress), reused=True)
        built = first_right(
            request, library, progress, lambda one: _attempt(one, library, progress, said)
        )
        remove_superseded(built)
        return BuiltPlan(built, reused=False)


def build_bytes(request: BuildRequest, library: Library, progress: Progress = SILENT) -> bytes:
    """Build a plan that is neither judged nor written; raises PlanBuildError."""
    with only_build(progress), listening() as said:
        data, _, _ = _Build(request, library, progress, said).run()
        return data


def _attempt(request: BuildRequest, library: Library, progress: Progress, said: Said) -> StoredPlan:
    """Build a plan, judge it and write it; raises PlanGateError when it is wrong."""
    started = time.monotonic()
    data, tensors, axes = _Build(request, library, progress, said).run()
    sidecar = _describe(request, library, tensors, axes, time.monotonic() - started)
    verdict = judge_new(data, sidecar, request, library, progress)
    sidecar = msgspec.structs.replace(sidecar, gate=verdict)
    if verdict.state == "failed":
        raise gate_error(sidecar, verdict)
    return _store(request.folder or plan_folder(), data, sidecar)


def _store(folder: Path, data: bytes, sidecar: Sidecar) -> StoredPlan:
    try:
        return write_plan(folder, data, sidecar)
    except OSError as error:
        raise PlanBuildError(
            f"the plan of the graph {sidecar.graph.name!r}, of {len(data):,} bytes, could not be "
            f"written to {folder}: {error.strerror or error}. Plans that were there are whole. "
            "Make room, correct permissions, or set SAMCLIP_CACHE_DIR to another folder, and "
            "build it again."
        ) from error


@dataclass
class _Build:
    """One build under way."""

    request: BuildRequest
    library: Library
    progress: Progress
    said: Said

    def run(self) -> tuple[bytes, tuple[PlanTensor, ...], dict[str, AxisRange]]:
        """Parse, configure and build; return the plan's bytes, its inputs and outputs, its axes."""
        with self.library.on_device():
            return self._run()

    def _run(self) -> tuple[bytes, tuple[PlanTensor, ...], dict[str, AxisRange]]:
        request, module = self.request, self.library.module
        logger = shared_logger(module)
        builder = module.Builder(logger)
        network = parse_network(module, builder, logger, request.source, self.said)
        if request.options.strip_weights:
            _check_refittable(network, request)
        if request.attention_kernels == "split":
            split_attention(network)
        elif request.attention_kernels == "fp32":
            widen_attention(network)
        workspace = request.options.workspace
        if workspace is None:
            workspace = default_workspace(self.library)
        if request.preflight:
            check_memory(network, self.library, self.progress, workspace)
        tensors = describe_tensors(network, request.axes)
        config = configure(module, builder, request, workspace)
        add_profile(builder, config, tensors)
        timings = timing_file(self.library)
        load_timings(config, timings)
        data = self._build(builder, network, config)
        save_timings(config, timings)
        return data, tensors, used_axes(network, request.axes)

    def _build(self, builder: Any, network: Network, config: Any) -> bytes:
        monitor = make_monitor(self.library.module, self.progress)
        config.progress_monitor = monitor
        try:
            plan = builder.build_serialized_network(network.definition, config)
        finally:
            monitor.close()
        if monitor.interruption is not None:
            raise monitor.interruption
        if plan is None:
            raise self._failure()
        return bytes(plan)

    def _failure(self) -> PlanBuildError:
        source = self.request.source
        lines = "".join(f"\n- {' '.join(line.split())}" for line in dict.fromkeys(self.said.errors))
        return PlanBuildError(
            f"{self.library.name} {self.library.version} could not build the graph "
            f"{source.name!r} ({source.precision}); it says:{lines or ' nothing'}\n"
            "If it ran out of memory, use a smaller workspace or free some; else export the "
            "bundle again for this backend, or choose another one.",
            steps=(ChangeSettings(("workspace",)),),
        )


def configure(module: Any, builder: Any, request: BuildRequest, workspace: int | None) -> Any:
    """Return the configuration of a build. No precision is set: it is in the graph.

    TF32 is off, as in the other backends: FP32 graphs compute in FP32. Details of the layers are
    kept in the plan, for trtexec and the inspector. `workspace`: the scratch memory in bytes; None
    leaves it to TensorRT, which takes all of the GPU's.
    """
    options, flags = request.options, module.BuilderFlag
    config = builder.create_builder_config()
    config.clear_flag(flags.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.strip_weights:
        config.set_flag(flags.STRIP_PLAN)
        config.set_flag(flags.REFIT_IDENTICAL)  # only with the weights that it was built from
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):  # RTX: nothing is allocated in a run, which
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)  # capturing it as a CUDA graph needs
    if hasattr(module, "ComputeCapability"):
        _set_targets(module, config, request.capabilities)
    return config


def _check_refittable(network: Network, request: BuildRequest) -> None:
    """Refuse to strip weights that the graph does not store in the form that the plan needs."""
    if network.expanded:
        raise PlanBuildError(
            f"the graph {request.source.name!r} stores {network.expanded} of its weights as INT8, "
            "expected FP32 or FP16 for a plan without weights: only those are put into it as they "
            "are. Build it with its weights, or export the bundle with weights stored as FP16.",
            steps=(
                ChangeSettings(("strip_weights",)),
                ExportBundle((("weights_dtype", "fp16"),)),
            ),
        )


def _set_targets(module: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Set the GPU architectures to build for; "current" where the library has no name for one."""
    known = module.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for place, capability in enumerate(capabilities):
        target = known.get(target_name(capability).upper(), module.ComputeCapability.CURRENT)
        if not config.set_compute_capability(target, place):
            raise PlanBuildError(
                f"{module.__name__} refuses the target {target_name(capability)}. Choose another "
                "one, or one alone."
            )


def _describe(
    request: BuildRequest,
    library: Library,
    tensors: tuple[PlanTensor, ...],
    axes: dict[str, AxisRange],
    seconds: float,
) -> Sidecar:
    gpu, state = library.state.gpu, library.state
    target = BuiltFor(
        capabilities=request.capabilities,
        system=system_name(),
        gpu=None if gpu is None else gpu.name,
        processors=None if gpu is None else gpu.processors,
        memory=None if gpu is None else gpu.memory,
        driver=state.driver,
        cuda=None if gpu is None else gpu.cuda,
    )
    return Sidecar(
        plan=NOT_WRITTEN,
        graph=identify(request.source),
        library=library.name,
        library_version=library.version,
        target=target,
        options=request.options,
        axes=axes,
        tensors=tensors,
        samclip=__version__,
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(seconds, 2),
        attention_kernels=request.attention_kernels,
        asked=request.asked,
    )
