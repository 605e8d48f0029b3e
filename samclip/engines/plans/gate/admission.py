"""The admission of a plan at its load: its verdict, given now if it has none, and its canary."""

from __future__ import annotations

import logging

import numpy as np

from samclip.engines.agreement import mean_cosine
from samclip.engines.base import Engine, GraphSource
from samclip.engines.plans.gate.cases import make_noise
from samclip.engines.plans.gate.judge import Defendant, judge_plan, machine_of
from samclip.engines.plans.gate.kept import keep_verdict, verdict_here
from samclip.engines.plans.gate.verdict import Canary, Verdict
from samclip.engines.plans.library import Library
from samclip.engines.plans.match import Plan, gate_error
from samclip.engines.plans.sidecar import rebuild_step
from samclip.errors import EngineError, PlanForeignError, PlanGateError

_logger = logging.getLogger("samclip")


def admit(plan: Plan, source: GraphSource, library: Library) -> Verdict:
    """Return the verdict on a plan that may be loaded here; judge it first where it has none.

    `source.trial` makes the cases; a source without one is not a bundle's, and its plans are loaded
    as they are. Raises PlanGateError for a plan that has failed, or cannot be judged now.
    """
    machine = machine_of(library)
    verdict = verdict_here(plan.sidecar, machine)
    if verdict.state == "unjudged" and source.trial is not None and machine is not None:
        _logger.info("the plan of %r was not judged on this machine: judging it", source.name)
        defendant = Defendant.of(plan.sidecar, plan.data, source, library)
        try:
            verdict = judge_plan(defendant, source.trial(plan.sidecar.axes))
        except EngineError as error:  # no FP32 graph that answers, or no room on the disk
            raise PlanGateError(
                f"the plan of {source.name!r} was never judged, and is not used: {error}"
            ) from error
        if verdict.state == "unjudged":
            raise PlanGateError(
                f"the plan of {source.name!r} was never judged, and cannot be now: "
                f"{verdict.reason}. It is not used. Mend that and load again, or build the plan "
                "on this machine."
            )
        keep_verdict(plan.sidecar.plan.sha256, machine, verdict)
    if verdict.state == "failed":
        raise gate_error(plan.sidecar, verdict)
    return verdict


def check_canary(engine: Engine, canary: Canary | None, plan: Plan, origin: str) -> None:
    """Run an engine once, and compare a sample of its answer with FP32's; None: do nothing.

    Raises PlanForeignError when it departs: then something here differs from where it was judged.
    """
    if canary is None:
        return
    results = engine.run(make_noise(canary.inputs, canary.seed))
    for sample in canary.samples:
        found = results[sample.output].numpy().reshape(-1)
        places = np.asarray(sample.places, np.int64)
        fits = not len(places) or places.max() < found.size
        expected = np.asarray([sample.values])
        cosine = mean_cosine(expected, found[places][None]) if fits else -1.0
        if cosine < canary.limit and expected.any():
            graph = plan.sidecar.graph
            raise PlanForeignError(
                f"the plan of {graph.name!r} ({graph.precision}) was right when it was judged, and "
                f"is wrong here: a sample of {sample.output!r} has a cosine of {cosine:.4f} with "
                f"FP32, at least {canary.limit:g} is asked for. The driver, the GPU or its memory "
                "has changed. It is not used. Build it again on this machine.",
                steps=(rebuild_step(plan.sidecar, origin, force=True),),
            )
