"""The gate of engines that compute FP32 graphs in fewer bits: each graph is judged on the machine.

FP32 answers here, the engine in a separate process, as for plans, by the limits of FP16: a machine
chooses such a precision for its speed alone. Outputs that depart are computed in FP32, with all
that they depend on, and the graph is judged once more. So a graph may end wholly in FP32. What was
found is kept by the graph's bytes and all that the answers depend on.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace

import msgspec

from samclip.engines.base import (
    FULL,
    REMEDY,
    Backend,
    EngineOptions,
    EnginePrecision,
    GraphKey,
    GraphSource,
    Reducing,
)
from samclip.engines.found_here import keep_fact, read_fact
from samclip.engines.isolated.backend import IsolatedBackend
from samclip.engines.plans.gate.cases import answer
from samclip.engines.plans.gate.child import NO_VERDICT, repeat_case
from samclip.engines.plans.gate.measures import Tally
from samclip.engines.plans.gate.verdict import MAX_REASON, State, Verdict, failure_table
from samclip.engines.plans.record import Record, Sha256, digest_of, with_digest
from samclip.engines.plans.sidecar import DEFAULT_AXES, BuiltGraph, identify, identify_key
from samclip.errors import BackendUnavailableError, EngineError

SECONDS = 120.0  # for loading a graph, and for each run
REPEATS = 2
SCHEMA = 1  # of the key: another one makes all that was found before it stale
LIMITS = "fp16"  # whose limits of agreement are asked for

_logger = logging.getLogger("samclip")


class JudgedGraph(Record, frozen=True, kw_only=True):
    """What was found about a graph in a precision, and the SHA-256 of all that with "".

    `key`: a digest of the graph and all that its answers depend on. `fp32_outputs`: those that
    depart, and are computed in FP32; `verdicts`: the last of the engine so computed, and before it
    the one that they departed in.
    """

    key: Sha256
    fp32_outputs: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...]
    digest: str = ""

    @property
    def state(self) -> str:
        """Whether the engine computes what FP32 computes: the state of the last verdict."""
        return self.verdicts[-1].state


def find_judged(
    backend: Backend, graph: GraphKey, precision: EnginePrecision
) -> JudgedGraph | None:
    """Return what is kept about a graph on this machine; None where it was never judged."""
    return _read(_key(backend, identify_key(graph), precision))


def is_admitted(backend: Backend, graph: GraphKey, precision: EnginePrecision) -> bool:
    """Whether it is known already that a graph may be computed here in a precision."""
    reducing, found = _reducing(backend), find_judged(backend, graph, precision)
    return (
        found is not None
        and found.state == "passed"
        and reducing is not None
        and reducing.probe_precision(precision, ask=False).available
    )


def admit_graph(backend: Backend, source: GraphSource, options: EngineOptions) -> EngineOptions:
    """Return the options by which a graph may be computed here, in FP32 where it must be.

    It is judged first where it never was. Raises BackendUnavailableError where this machine does
    not compute in the precision, or the graph cannot be judged.
    """
    precision = options.precision
    check_precision_here(backend, precision)
    found = judge_graph(backend, source, precision)
    if found.state == "failed":
        _logger.info(
            "%r is computed in FP32, and not in %s:%s",
            source.name, precision, failure_table(found.verdicts[-1]),
        )  # fmt: skip
        return replace(options, precision=FULL)
    if found.fp32_outputs:
        names = ", ".join(found.fp32_outputs)
        _logger.info("%r is computed in %s, and in FP32 for %s", source.name, precision, names)
    return replace(options, fp32_outputs=found.fp32_outputs)


def check_precision_here(backend: Backend, precision: EnginePrecision) -> None:
    """Raise BackendUnavailableError where a backend does not compute in `precision` here."""
    reducing = _reducing(backend)
    if reducing is None or precision not in backend.traits.engine_precisions:
        raise BackendUnavailableError(
            f"the backend {backend.name!r} does not compute in {precision} what a graph has in "
            f"FP32. {REMEDY}leave engine_precision out, or use backend='openvino'."
        )
    probe = reducing.probe_precision(precision)
    if not probe.available:
        raise BackendUnavailableError(
            f"{backend.name} is not used in {precision} here: {probe.detail}. "
            f"{REMEDY}{probe.remedy}.",
            steps=probe.steps,
        )


def judge_graph(
    backend: Backend, source: GraphSource, precision: EnginePrecision, *, again: bool = False
) -> JudgedGraph:
    """Return what is kept about a graph, or judge it now, and keep that; `again`: judge anyway.

    Raises BackendUnavailableError where it cannot be judged: without a trial, memory or process.
    """
    key = _key(backend, identify(source), precision)
    found = None if again else _read(key)
    if found is not None:
        return found
    if source.trial is None:
        raise _not_judged(source, precision, "it is not a bundle's")
    _logger.info("%r was never judged in %s on this machine: judging it", source.name, precision)
    try:
        found = _judge(backend, source, precision, key)
    except EngineError as error:  # of FP32, or of the bundle
        raise _not_judged(source, precision, str(error)) from error
    if found.state == "unjudged":
        raise _not_judged(source, precision, found.verdicts[-1].reason)
    keep_fact(_name(key), with_digest(found))
    return found


def _not_judged(source: GraphSource, precision: str, reason: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"the graph {source.name!r} could not be judged in {precision}, and is not computed in it: "
        f"{reason.rstrip('. ')}. {REMEDY}mend that, or leave engine_precision out."
    )


def _reducing(backend: Backend) -> Reducing | None:
    """Return the backend that knows about precisions: this one, or the one that it wraps."""
    found: object = backend
    while found is not None and not isinstance(found, Reducing):
        found = getattr(found, "inner", None)
    return found


def _judge(
    backend: Backend, source: GraphSource, precision: EnginePrecision, key: str
) -> JudgedGraph:
    """Judge a graph, and once more with the outputs in FP32 that departed; raises EngineError."""
    options = EngineOptions(precision=precision)
    first = _try(backend, source, options)
    departed = {row.output for row in first.failures}
    if first.state != "failed" or not departed or departed == {row.output for row in first.rows}:
        return JudgedGraph(key=key, verdicts=(first,))
    kept = tuple(sorted(departed))
    second = _try(backend, source, replace(options, fp32_outputs=kept))
    return JudgedGraph(key=key, fp32_outputs=kept, verdicts=(first, second))


def _try(backend: Backend, source: GraphSource, options: EngineOptions) -> Verdict:
    """Compare an engine with FP32; whatever it does to its process is a verdict.

    Raises EngineError where FP32 itself does not answer.
    """
    if source.trial is None:
        raise ValueError("a graph without a trial cannot be tried")
    started, trial = time.monotonic(), source.trial(DEFAULT_AXES)
    tally, names = Tally(LIMITS), []
    state: State = "passed"
    reason, engine = "", None
    try:
        for case in answer(trial):
            names.append(case.name)
            try:
                engine = engine or IsolatedBackend(backend, SECONDS).load(_lent(source), options)
                repeat_case(tally, "alone", case, engine, REPEATS)
            except EngineError as error:
                state = "unjudged" if isinstance(error, NO_VERDICT) else "failed"
                reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
                break
    finally:
        if engine is not None:
            engine.close()
    rows = tally.rows()
    if state == "passed" and not all(row.passed for row in rows):
        state = "failed"
    return Verdict(
        state=state,
        reason=reason,
        rows=rows,
        reference=hashlib.sha256(trial.reference.onnx).hexdigest(),
        cases=tuple(names),
        seconds=round(time.monotonic() - started, 2),
    )


def _lent(source: GraphSource) -> GraphSource:
    """Return a source whose bytes the engine in the other process does not release here."""
    return replace(source.whole(), again=None, trial=None)


def _key(backend: Backend, graph: BuiltGraph, precision: str) -> str:
    """Return a digest of a graph and all that its answers in a precision depend on."""
    reducing = _reducing(backend)
    facts = (
        SCHEMA,
        backend.name,
        precision,
        graph.onnx_sha256,
        graph.weights_sha256,
        None if reducing is None else reducing.precision_facts,
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _read(key: str) -> JudgedGraph | None:
    """Return what was kept; None when nothing is, or nothing that is whole."""
    found = read_fact(_name(key), JudgedGraph)
    if found is None:
        return None
    return found if found.digest == digest_of(found) and found.key == key else None


def _name(key: str) -> str:
    return f"graph.{key[:32]}"
