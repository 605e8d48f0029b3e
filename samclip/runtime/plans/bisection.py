"""The first block of a graph whose output departs from FP32 in its plan.

The sums that end the blocks become outputs, of the plan and of FP32's graph, and are compared in
their order. A kernel that spans a block cannot give them, so marking them may cure what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

from samclip.engines.plans.build import build_bytes
from samclip.engines.plans.gate.blocks import block_outputs, with_outputs
from samclip.engines.plans.gate.building import why_not_here
from samclip.engines.plans.gate.judge import Defendant, judge_plan
from samclip.engines.plans.gate.verdict import GateRow, Verdict
from samclip.engines.plans.library import choose_targets, open_library
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import DEFAULT_AXES
from samclip.errors import BackendUnavailableError, CapabilityError
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.plans.building import PlanSettings, plan_source
from samclip.runtime.plans.trial import Trials

QUESTIONS = 1  # besides the noise: every block's output is compared, and large


@dataclass(frozen=True)
class Bisection:
    """The cosines of the blocks' outputs in their order, then those of the graph's outputs.

    `departed`: the first that is below its limit, None when none is; `verdict`: on all of the plan.
    """

    rows: tuple[GateRow, ...]
    departed: GateRow | None
    verdict: Verdict


def bisect_graph(
    bundle: Bundle, graph: str, settings: PlanSettings, progress: Progress = SILENT
) -> Bisection:
    """Build a plan of a graph that gives every block's output, and compare each with FP32.

    Nothing is written. Raises BackendUnavailableError where the plan cannot run here,
    CapabilityError for a graph without blocks, and PlanBuildError.
    """
    library = open_library(settings.backend, settings.device)
    capabilities = choose_targets(library, settings.targets)
    reason = why_not_here(capabilities, library)
    if reason is not None:
        raise BackendUnavailableError(f"the plan of {graph!r} cannot be run: {reason}.")
    source = plan_source(bundle, graph, library.name, settings.precision, library.version)
    axes = {**DEFAULT_AXES, **settings.axes}
    trial = Trials(bundle).make(graph, axes)
    own = set(block_outputs(source))
    names = [name for name in block_outputs(trial.reference) if name in own]
    if not names:
        raise CapabilityError(
            f"the graph {graph!r} has no blocks that end in a sum, in FP32 and in "
            f"{source.precision} by the same name. Compare it as a whole: build its plan."
        )
    marked = with_outputs(source, names)
    request = BuildRequest(
        marked, capabilities, axes, options=settings.options, preflight=settings.preflight
    )
    progress.note(f"{graph} ({source.precision}): building with {len(names)} outputs of blocks")
    data = build_bytes(request, library, progress)
    defendant = Defendant(data, marked, library, source.precision, settings.options.strip_weights)
    asked = replace(
        trial,
        reference=with_outputs(trial.reference, names),
        questions=islice(trial.questions, QUESTIONS),
    )
    verdict = judge_plan(defendant, asked, progress)
    return _ordered(verdict, names)


def _ordered(verdict: Verdict, names: list[str]) -> Bisection:
    """Put the cosines of the runs alone into the graph's order."""
    found = [row for row in verdict.rows if (row.run, row.measure) == ("alone", "cosine")]
    by_name = {row.output: row for row in found}
    outputs = [row.output for row in found if row.output not in names]
    rows = tuple(by_name[name] for name in (*names, *outputs) if name in by_name)
    departed = next((row for row in rows if not row.passed), None)
    return Bisection(rows, departed, verdict)
