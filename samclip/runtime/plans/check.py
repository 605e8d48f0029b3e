"""Plans that exist already, judged on this machine by the bundle that they were built from."""

from __future__ import annotations

import msgspec

from samclip.engines.base import GraphSource
from samclip.engines.plans.gate.building import why_not_here
from samclip.engines.plans.gate.judge import Defendant, judge_plan
from samclip.engines.plans.library import open_library
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.plans.store import StoredPlan, read_plan, replace_sidecar
from samclip.errors import (
    BackendUnavailableError,
    PlanDamagedError,
    PlanForeignError,
    PlanMissingError,
    PlanStaleError,
)
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.plans.state import find_variant, plan_state
from samclip.runtime.plans.trial import Trials


def check_plan(stored: StoredPlan, device: int = 0, progress: Progress = SILENT) -> StoredPlan:
    """Judge a plan on the GPU number `device`, and write the verdict into its sidecar.

    Whatever its sidecar said before is replaced; a plan that fails is never loaded again. Raises
    PlanError for a plan that cannot be used here or has no bundle, and BackendUnavailableError
    where its library cannot run.
    """
    sidecar = stored.sidecar
    if sidecar is None:
        raise stored.fault or PlanDamagedError(f"the plan {stored.path} has no sidecar. Remove it.")
    state = plan_state(stored)
    if state.startswith("stale") or not sidecar.graph.origin:
        raise PlanStaleError(
            f"the plan {stored.path.stem} has no bundle to be compared with ({state}). Build it "
            "again."
        )
    library = open_library(sidecar.library, device)
    if library.version != sidecar.library_version:
        raise PlanForeignError(
            f"the plan {stored.path.stem} was built by {sidecar.library} "
            f"{sidecar.library_version}, here is {library.version}. Build it again."
        )
    reason = why_not_here(sidecar.target.capabilities, library)
    if reason is not None:
        raise BackendUnavailableError(f"the plan {stored.path.stem} cannot be run: {reason}.")
    bundle = Bundle.open(sidecar.graph.origin)
    defendant = Defendant.of(sidecar, read_plan(stored), _source(bundle, sidecar), library)
    trial = Trials(bundle).make(sidecar.graph.name, sidecar.axes)
    verdict = judge_plan(defendant, trial, progress)
    if verdict.state == "unjudged":
        raise BackendUnavailableError(
            f"the plan {stored.path.stem} could not be judged: {verdict.reason}. Mend that and try "
            "again."
        )
    return replace_sidecar(stored, msgspec.structs.replace(sidecar, gate=verdict))


def _source(bundle: Bundle, sidecar: Sidecar) -> GraphSource:
    """Read the variant that a plan was built from; its weights go into a stripped plan."""
    graph = sidecar.graph
    variant = find_variant(bundle.manifest, graph)
    if variant is None:
        raise PlanMissingError(
            f"the bundle at {bundle.path} has no longer the graph {graph.name!r} that the plan was "
            "built from. Build it again."
        )
    return bundle.variant_source(graph.name, variant)
