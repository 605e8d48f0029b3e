"""Whether all graphs of a bundle have plans for this machine, told from sidecars alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from samclip.engines.base import GraphKey, Probe
from samclip.engines.plans.command import build_command
from samclip.engines.plans.fit import PlanHost, misfit
from samclip.engines.plans.sidecar import BuiltGraph
from samclip.engines.plans.store import StoredPlan, list_plans, search_folders


def missing_plans(graphs: Sequence[GraphKey], host: PlanHost) -> Probe:
    """Say which graphs have no plan that fits, and how to build them all."""
    wanted = [_built_graph(key) for key in graphs]
    stored = list_plans(dict.fromkeys(f for graph in wanted for f in search_folders(graph.origin)))
    missing = [graph for graph in wanted if not any(_fits(plan, graph, host) for plan in stored)]
    if not missing:
        return Probe(True, f"plans of {', '.join(graph.name for graph in wanted)}")
    names = ", ".join(f"{graph.name} ({graph.precision})" for graph in missing)
    return Probe(
        False,
        f"no plan was built for {names} with {host.library} {host.version} and compute capability "
        f"{host.capability}",
        _command(wanted, missing, host),
    )


def _command(wanted: Sequence[BuiltGraph], missing: Sequence[BuiltGraph], host: PlanHost) -> str:
    """Give one command for all graphs where it serves, else one for each."""
    places = {graph.origin for graph in missing}
    if len(missing) == len(wanted) and len(places) == 1 and places != {""}:
        words = ["samclip", "engine", "build", *places, "--backend", host.library]
        precisions = {graph.precision for graph in missing}
        return shlex.join([*words, *(["--precision", *precisions] if len(precisions) == 1 else [])])
    commands = [build_command(graph, host.library, host.capability) for graph in missing]
    return "; ".join(dict.fromkeys(commands))


def _fits(stored: StoredPlan, graph: BuiltGraph, host: PlanHost) -> bool:
    sidecar = stored.sidecar
    if sidecar is None or (sidecar.library, sidecar.graph.name) != (host.library, graph.name):
        return False
    return misfit(sidecar, graph, host) is None


def _built_graph(key: GraphKey) -> BuiltGraph:
    return BuiltGraph(
        name=key.name,
        onnx_sha256=key.onnx_sha256,
        weights_sha256=key.weights_sha256,
        precision=key.precision,
        attention=key.attention,
        origin=key.origin,
    )
