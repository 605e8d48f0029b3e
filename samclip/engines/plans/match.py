"""Plans that fit a graph and a machine, found by their sidecars and verified before use."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samclip.engines.backend_names import TENSORRT, LibraryName
from samclip.engines.base import GraphSource
from samclip.engines.plans.gate.verdict import Verdict, failure_table
from samclip.engines.plans.library import Library
from samclip.engines.plans.own_files import PlanBytes
from samclip.engines.plans.sidecar import (
    BuiltFor,
    BuiltGraph,
    Sidecar,
    build_step,
    identify,
    rebuild_step,
)
from samclip.engines.plans.store import StoredPlan, list_plans, open_plan, read_plan, search_folders
from samclip.errors import (
    PlanDamagedError,
    PlanError,
    PlanForeignError,
    PlanGateError,
    PlanMissingError,
    PlanStaleError,
)

MEMORY_TOLERANCE = 0.1  # share by which two GPUs of one model may differ


def system_name() -> str:
    """Return the kind of this system: "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


@dataclass(frozen=True)
class PlanHost:
    """A machine that is to run a plan.

    `version`: the library's, with the number of its build where it is known; `capability`: the
    GPU's compute capability, "8.7"; `processors`: how many streaming multiprocessors it has, and
    `memory` its bytes, None where they are not known.
    """

    library: LibraryName
    version: str
    capability: str
    system: str = field(default_factory=system_name)
    processors: int | None = None
    memory: int | None = None


def host_of(library: Library) -> PlanHost | None:
    """Describe this machine as one that runs the plans of a library; None without a GPU."""
    gpu = library.state.gpu
    if gpu is None:
        return None
    return PlanHost(
        library=library.name,
        version=library.version,
        capability=gpu.capability,
        processors=gpu.processors,
        memory=gpu.memory,
    )


def misfit(sidecar: Sidecar, graph: BuiltGraph, host: PlanHost) -> PlanError | None:
    """Return the error why a plan of a graph of this name must not run here; None when it may.

    PlanStaleError when the graph's bytes have changed, PlanForeignError when the version of the
    library, the GPU or the system is another one, PlanGateError when it was judged to be wrong.
    `sidecar.library` must be the host's.
    """
    if _bytes(sidecar.serves) != _bytes(graph):
        return _stale(sidecar, graph, host)
    reason = _foreign(sidecar, host)
    if reason is None:
        is_bad = sidecar.gate.state == "failed"
        return gate_error(sidecar, sidecar.gate, graph.origin) if is_bad else None
    return PlanForeignError(
        f"the plan of {graph.name!r} ({sidecar.graph.precision}) {reason}. It is not loaded. "
        "Build it on this machine.",
        steps=(rebuild_step(sidecar, graph.origin, host.capability),),
    )


def find_fitting(graph: BuiltGraph, host: PlanHost) -> StoredPlan | None:
    """Return the newest plan that may run a graph on a machine, by its sidecar; None if none may.

    Its bytes are not read. Looks where `find_plan` does.
    """
    stored = list_plans(search_folders(graph.origin))
    return next((plan for plan in stored if fits(plan, graph, host)), None)


def fits(stored: StoredPlan, graph: BuiltGraph, host: PlanHost) -> bool:
    """Whether a plan may run a graph on a machine, by its sidecar."""
    sidecar = stored.sidecar
    if sidecar is None or (sidecar.library, sidecar.graph.name) != (host.library, graph.name):
        return False
    return misfit(sidecar, graph, host) is None


def gate_error(sidecar: Sidecar, verdict: Verdict, origin: str = "") -> PlanGateError:
    """Return the error of a plan that has failed the gate, with its failures in lines."""
    graph = sidecar.graph
    return PlanGateError(
        f"the plan of {graph.name!r} ({graph.precision}) by {sidecar.library} "
        f"{sidecar.library_version} does not compute what FP32 computes:"
        f"{failure_table(verdict)}\n"
        "It is not used. Build it again with another library or precision, or use another backend.",
        steps=(rebuild_step(sidecar, origin, force=True),),
    )


def _bytes(graph: BuiltGraph) -> tuple[str, str | None]:
    return graph.onnx_sha256, graph.weights_sha256


def _stale(sidecar: Sidecar, graph: BuiltGraph, host: PlanHost) -> PlanStaleError:
    built = sidecar.serves
    if built.onnx_sha256 != graph.onnx_sha256:
        what, came, expected = "ONNX graph", built.onnx_sha256, graph.onnx_sha256
    else:
        what = "weights file"
        came, expected = str(built.weights_sha256), str(graph.weights_sha256)
    return PlanStaleError(
        f"the plan of {graph.name!r} ({graph.precision}) is stale: it was built on "
        f"{sidecar.built[:10]} from a {what} with SHA-256 {came[:16]}..., the bundle's has "
        f"{expected[:16]}... by now. It is not loaded. Build it again on this machine.",
        steps=(rebuild_step(sidecar, graph.origin, host.capability),),
    )


def _foreign(sidecar: Sidecar, host: PlanHost) -> str | None:
    """Return how `host` differs from what a plan was built for; None when it does not."""
    built, capabilities = sidecar.target, sidecar.target.capabilities
    if sidecar.library_version != host.version:
        return f"was built by {sidecar.library} {sidecar.library_version}, here is {host.version}"
    if host.capability not in capabilities:
        return (
            f"was built for compute capability {', '.join(capabilities)}"
            f"{f' ({built.gpu})' if built.gpu else ''}, the GPU here has {host.capability}"
        )
    if built.system != host.system:
        return f"was built for {built.system}, this is {host.system}"
    return None if sidecar.library != TENSORRT else _other_model(built, host)


def _other_model(built: BuiltFor, host: PlanHost) -> str | None:
    """Return how the GPU differs from that on which TensorRT timed its kernels.

    GPUs of one compute capability differ in processors and memory, and on a Jetson all have the
    same name. The driver keeps a part of the memory back, more or less from release to release.
    """
    if built.processors is not None and host.processors not in {None, built.processors}:
        return (
            f"was built on a GPU with {built.processors} multiprocessors, the GPU here has "
            f"{host.processors}"
        )
    if built.memory and host.memory and abs(host.memory / built.memory - 1) > MEMORY_TOLERANCE:
        return (
            f"was built on a GPU with {built.memory / 2**30:.1f} GiB of memory, the GPU here has "
            f"{host.memory / 2**30:.1f} GiB"
        )
    return None


@dataclass(frozen=True)
class Plan:
    """A verified plan: `data` are the bytes whose SHA-256 the sidecar has, as TensorRT wrote them.

    A plan with `sidecar.options.strip_weights` must be refitted with its graph before it runs.
    """

    path: Path
    data: PlanBytes
    sidecar: Sidecar


def find_plan(
    source: GraphSource,
    host: PlanHost,
    folders: Sequence[Path] | None = None,
    in_pieces: bool = False,
) -> Plan:
    """Find the newest sound plan of `source` that fits `host`, and read it.

    Looks in `folders`; None: the user's cache, then next to the bundle that `source` is from.
    `in_pieces`: only verify it and leave it open, for a reader of pieces. Raises PlanMissingError,
    PlanStaleError, PlanForeignError, PlanGateError or PlanDamagedError, whose message says what
    came and what was expected, and whose `steps` build the plan.
    """
    graph = identify(source)
    places = search_folders(graph.origin) if folders is None else folders
    related = [plan for plan in list_plans(places) if _concerns(plan, graph, host)]
    damaged: PlanError | None = None
    for stored in related:
        if stored.sidecar is not None and misfit(stored.sidecar, graph, host) is None:
            try:
                data = open_plan(stored) if in_pieces else read_plan(stored)
                return Plan(stored.path, data, stored.sidecar)
            except FileNotFoundError:  # removed meanwhile: another one may be there
                continue
            except PlanDamagedError as error:
                damaged = damaged or error
    raise damaged or _refusal(related, graph, host)


def _concerns(stored: StoredPlan, graph: BuiltGraph, host: PlanHost) -> bool:
    """Whether a plan was built from this graph or a former version of it."""
    if stored.sidecar is None:  # unreadable: only the file's name is known
        name = stored.path.name
        return name.startswith(f"{graph.name}.") and f".{graph.precision}.{host.library}-" in name
    built = stored.sidecar.serves
    if stored.sidecar.library != host.library or built.name != graph.name:
        return False
    same_bytes = built.onnx_sha256 == graph.onnx_sha256
    same_place = bool(graph.origin) and built.origin == graph.origin
    same_variant = (built.precision, built.attention) == (graph.precision, graph.attention)
    return same_bytes or (same_place and same_variant)


def _refusal(related: Iterable[StoredPlan], graph: BuiltGraph, host: PlanHost) -> PlanError:
    """Choose the most useful error: a foreign plan of this graph says more than a stale one."""
    reasons = [
        stored.fault if stored.sidecar is None else misfit(stored.sidecar, graph, host)
        for stored in related
    ]
    found = [reason for reason in reasons if reason is not None]
    foreign = [reason for reason in found if isinstance(reason, PlanForeignError)]
    nearest = [*foreign, *found]
    if nearest:
        return nearest[0]
    return PlanMissingError(
        f"there is no plan of {graph.name!r} ({graph.precision}) for {host.library} "
        f"{host.version} and compute capability {host.capability}. Build one on this machine, "
        "once.",
        steps=(build_step(graph, host.library, host.capability),),
    )
