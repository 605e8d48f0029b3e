"""The forms of a graph that take the place of a wrong plan, each of them judged too.

The first that is right is taken, the fastest being tried first. Its sidecar names what was asked
for, so that it is loaded in that plan's place and nothing is built again at the next build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec

from samclip.engines.base import GraphSource
from samclip.engines.plans.denied import why_denied
from samclip.engines.plans.library import Library
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import Asked, identify
from samclip.engines.plans.store import StoredPlan
from samclip.engines.steps import ChangeSettings, ExportBundle
from samclip.errors import PlanBuildError, PlanGateError
from samclip.progress import Progress

CAUTIOUS_LEVEL = 2  # of the builder: fewer ways to compute a layer are tried
FULL = "fp32"
OPERATOR = "fused"  # the form of attention that is one operator of the graph
WITH_HALF_ATTENTION = frozenset({"fp16", "bf16", "int8_fp16"})


@dataclass(frozen=True)
class Attempt:
    """Another way to build the plan that was asked for; `how` says in what it differs."""

    how: str
    request: BuildRequest


def first_right(
    request: BuildRequest,
    library: Library,
    progress: Progress,
    build: Callable[[BuildRequest], StoredPlan],
) -> StoredPlan:
    """Return the plan that was asked for, or where it is wrong the first other one that is right.

    `build` raises PlanGateError for a wrong plan. Builds that are known to be wrong are not tried,
    see `denied`. Raises what the first build raises; PlanGateError
    with all tables when no plan is right.
    """
    first: PlanGateError | None = None
    reason = why_denied(request, library)
    if reason is None:
        try:
            return build(request)
        except PlanGateError as error:
            first, reason = error, str(error)
    else:
        progress.note(f"warning: {request.source.name!r} is not built as asked: {reason}")
    failed = [f"as asked: {reason}"]
    for attempt in other_ways(request):
        denial = why_denied(attempt.request, library)
        if denial is not None:
            failed.append(f"{attempt.how}: {denial}")
            continue
        progress.note(
            f"warning: no right plan of {request.source.name!r} by {library.name} "
            f"{library.version} yet; the next attempt: {attempt.how}"
        )
        try:
            stored = build(attempt.request)
        except (PlanGateError, PlanBuildError) as error:
            failed.append(f"{attempt.how}: {error}")
            continue
        progress.note(f"warning: {request.source.name!r} was built with {attempt.how}")
        return stored
    raise PlanGateError(
        f"{library.name} {library.version} builds no plan of {request.source.name!r} "
        f"({request.source.precision}) that computes what FP32 computes; none was written. "
        + "\n".join(failed)
        + "\nUse another version of the library, or another backend.",
        steps=(ExportBundle((("attention", None),)), ChangeSettings(("backend",))),
    ) from first


def other_ways(request: BuildRequest) -> Iterator[Attempt]:
    """Yield what may be built instead, the fastest first, FP32 last."""
    others = tuple(request.others() if request.others is not None else ())
    source, options = request.source, request.options
    for other in others:
        if other.precision == source.precision:
            yield _with_source(request, other, f"attention in the form {other.attention!r}")
    if options.level is None or options.level > CAUTIOUS_LEVEL:
        how = f"the builder's level {CAUTIOUS_LEVEL}"
        level = msgspec.structs.replace(options, level=CAUTIOUS_LEVEL)
        yield Attempt(how, replace(request, options=level, asked=_asked(request, how)))
    how = "attention in several kernels"
    yield Attempt(how, replace(request, attention_kernels="split", asked=_asked(request, how)))
    if source.precision in WITH_HALF_ATTENTION:
        forms = (source, *(o for o in others if o.precision == source.precision))
        parts = next((form for form in forms if form.attention != OPERATOR), source)
        how = "attention in FP32"
        yield _with_source(replace(request, attention_kernels="fp32"), parts, how)
    for other in others:
        if other.precision == FULL != source.precision:
            form = f", attention in the form {other.attention!r}" if other.attention else ""
            yield _with_source(request, other, f"FP32{form}")


def _with_source(request: BuildRequest, source: GraphSource, how: str) -> Attempt:
    """Build another graph, with its weights inside: those of the graph asked for do not fit it."""
    options = request.options
    if source is not request.source:
        options = msgspec.structs.replace(options, strip_weights=False)
    return Attempt(
        how, replace(request, source=source, options=options, asked=_asked(request, how))
    )


def _asked(request: BuildRequest, how: str) -> Asked:
    return Asked(graph=identify(request.source), options=request.options, how=how)
