"""The plan of a graph for this machine, found and verified: what the runtime asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.engines.base import GraphSource
from samclip.engines.plans.fit import PlanHost, misfit, missing_message
from samclip.engines.plans.identity import identify
from samclip.engines.plans.sidecar import BuiltGraph, Sidecar
from samclip.engines.plans.store import StoredPlan, list_plans, read_plan, search_folders
from samclip.errors import PlanDamagedError, PlanError, PlanForeignError, PlanMissingError


@dataclass(frozen=True)
class Plan:
    """A verified plan: `data` are the bytes whose SHA-256 the sidecar has, as TensorRT wrote them.

    A plan with `sidecar.options.strip_weights` must be refitted with its graph before it runs.
    """

    path: Path
    data: bytes
    sidecar: Sidecar


def find_plan(source: GraphSource, host: PlanHost, folders: Sequence[Path] | None = None) -> Plan:
    """Find the newest sound plan of `source` that fits `host`, and read it.

    Looks in `folders`; None: the user's cache, then beside the bundle that `source` is from.
    Raises PlanMissingError, PlanStaleError, PlanForeignError or PlanDamagedError, whose message
    says what came, what was expected, and the command that builds the plan.
    """
    graph = identify(source)
    places = search_folders(graph.origin) if folders is None else folders
    related = [plan for plan in list_plans(places) if _concerns(plan, graph, host)]
    damaged: PlanError | None = None
    for stored in related:
        if stored.sidecar is not None and misfit(stored.sidecar, graph, host) is None:
            try:
                return Plan(stored.path, read_plan(stored), stored.sidecar)
            except FileNotFoundError:  # removed meanwhile: another one may be there
                continue
            except PlanDamagedError as error:
                damaged = damaged or error
    raise damaged or _refusal(related, graph, host)


def fits(source: GraphSource, host: PlanHost, stored: StoredPlan) -> bool:
    """Tell whether a stored plan is one that `find_plan` would take; its bytes are not read."""
    graph = identify(source)
    if stored.sidecar is None or not _concerns(stored, graph, host):
        return False
    return misfit(stored.sidecar, graph, host) is None


def _concerns(stored: StoredPlan, graph: BuiltGraph, host: PlanHost) -> bool:
    """Whether a plan was built from this graph, or from what it was before."""
    if stored.sidecar is None:  # unreadable: only the file's name tells
        name = stored.path.name
        return name.startswith(f"{graph.name}.") and f".{graph.precision}.{host.library}-" in name
    built = stored.sidecar.graph
    if stored.sidecar.library != host.library or built.name != graph.name:
        return False
    same_bytes = built.onnx_sha256 == graph.onnx_sha256
    same_place = bool(graph.origin) and built.origin == graph.origin
    same_variant = (built.precision, built.attention) == (graph.precision, graph.attention)
    return same_bytes or (same_place and same_variant)


def _refusal(related: Iterable[StoredPlan], graph: BuiltGraph, host: PlanHost) -> PlanError:
    """Choose what to say: a plan of this very graph, but foreign, tells more than a stale one."""
    reasons = [
        stored.fault if stored.sidecar is None else misfit(stored.sidecar, graph, host)
        for stored in related
    ]
    found = [reason for reason in reasons if reason is not None]
    foreign = [reason for reason in found if isinstance(reason, PlanForeignError)]
    nearest = [*foreign, *found]
    return nearest[0] if nearest else PlanMissingError(missing_message(graph, host))
