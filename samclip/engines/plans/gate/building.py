"""The gate of a build: a plan is judged before it is written, where this machine can run it."""

from __future__ import annotations

import msgspec

from samclip.engines.plans.gate.judge import Defendant, judge_plan
from samclip.engines.plans.gate.verdict import SKIPPED, UNJUDGED, Verdict
from samclip.engines.plans.library import Library
from samclip.engines.plans.match import gate_error
from samclip.engines.plans.own_files import PlanBytes
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.plans.store import StoredPlan, read_plan, replace_sidecar
from samclip.engines.tensorrt.library import probe_library
from samclip.progress import Progress


def judge_new(
    data: PlanBytes, sidecar: Sidecar, request: BuildRequest, library: Library, progress: Progress
) -> Verdict:
    """Return the verdict on a plan: an unjudged one, with the reason, where it cannot run here."""
    if not request.gate:
        return SKIPPED
    if request.trial is None:
        return UNJUDGED
    reason = why_not_here(sidecar.target.capabilities, library)
    if reason is not None:
        return msgspec.structs.replace(UNJUDGED, reason=reason)
    defendant = Defendant.of(sidecar, data, request.source, library)
    return judge_plan(defendant, request.trial(sidecar.axes), progress)


def judge_stored(
    stored: StoredPlan, request: BuildRequest, library: Library, progress: Progress
) -> StoredPlan:
    """Judge a plan that was written without a verdict; raises PlanGateError when it is wrong."""
    sidecar = stored.sidecar
    if sidecar is None or sidecar.gate.state == "passed" or not request.gate:
        return stored
    verdict = judge_new(read_plan(stored), sidecar, request, library, progress)
    if verdict.state == "unjudged":
        return stored
    judged = replace_sidecar(stored, msgspec.structs.replace(sidecar, gate=verdict))
    if verdict.state == "failed":
        raise gate_error(sidecar, verdict)
    return judged


def why_not_here(capabilities: tuple[str, ...], library: Library) -> str | None:
    """Return why a plan for these compute capabilities cannot run here; None when it can."""
    gpu = library.state.gpu
    if gpu is None:
        return "there is no GPU here to run it"
    if gpu.capability not in capabilities:
        return f"the GPU here has compute capability {gpu.capability}"
    probe = probe_library(library.name)
    return None if probe.available else probe.detail
