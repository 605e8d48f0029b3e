"""The measurement behind `auto` on CPUs: every backend and precision that a bundle allows, in turn.

What is timed is a photo's encoder pass and the mask of one box, the photo decoded already and all
engines loaded. The candidates answer one after the other, and the order is turned round after each
round, because a machine with other work drifts within seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from samclip.engines.base import FULL, Backend, EngineOptions, EnginePrecision, Reducing
from samclip.errors import BackendUnavailableError, EngineError
from samclip.progress import SILENT, Progress, track
from samclip.runtime.assets import packaged_photos
from samclip.runtime.backend_choice import choose_variants, fastest_first
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest, Precision, Variant
from samclip.runtime.measured_choice import ChoiceKey, MeasuredChoice, Speed
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image

PHOTO = "coffee.jpg"
ROUNDS = 9
WARM_UP = 1
NEAR = 1.03  # a ratio of medians below which the order by rule decides


@dataclass(frozen=True)
class Candidate:
    """A backend and precisions that may be chosen; `refusal` says why not, "" where they may.

    `engine_precision`: what its engines compute in where graphs are in FP32.
    """

    backend: Backend
    precision: Precision
    refusal: str = ""
    engine_precision: EnginePrecision = FULL

    @property
    def name(self) -> str:
        """What messages and rows call it."""
        return f"{self.backend.name} in {describe_precision(self.precision, self.engine_precision)}"


def list_candidates(bundle: Bundle, asked: Collection[str] = ()) -> tuple[Candidate, ...]:
    """Return every CPU backend of "auto" in every precision that `bundle` has for it.

    By rule the first come first, FP32 before the others. A reduced precision is refused unless its
    gates were measured and passed, or it is among those `asked` for; then no other precision is
    listed. FP32 is refused where its parity with the torch model was not measured or not kept; so
    are engines that compute it in fewer bits, and those that are not made for that on this machine,
    which is tried here once.
    """
    found = []
    variants = bundle.manifest.graphs.encoder.variants
    for backend in fastest_first(bundle):
        if not backend.traits.on_host:
            continue
        own = {v.precision for v in variants if backend.name in v.backends}
        for precision in sorted(own, key=lambda one: (one != "fp32", one)):
            if asked and precision not in asked:
                continue
            refusal = _refuse(bundle, backend, precision, asked)
            found.append(Candidate(backend, precision, refusal))
            if precision == FULL:
                found += _reduced(found[-1])
    return tuple(found)


def _reduced(full: Candidate) -> Iterator[Candidate]:
    """Yield a candidate in FP32 with each of the other precisions of its engines."""
    for one in full.backend.traits.engine_precisions:
        refusal = full.refusal
        if not refusal and isinstance(full.backend, Reducing):
            probe = full.backend.probe_precision(one)
            refusal = "" if probe.available else probe.detail
        yield replace(full, refusal=refusal, engine_precision=one)


def describe_precision(precision: str, engine_precision: str) -> str:
    """Return the precision of graphs, and what engines compute FP32 in where that is another."""
    return precision if engine_precision == FULL else f"{precision}, engines in {engine_precision}"


def _refuse(bundle: Bundle, backend: Backend, precision: str, asked: Collection[str]) -> str:
    probe = backend.probe()
    if not probe.available:
        return probe.detail
    chosen = choose_variants(bundle, backend, precision)
    if "encoder" not in chosen:
        return "no variant fits this version of the library"
    if precision in asked:
        return ""
    if precision == "fp32":
        return next(filter(None, (_parity(bundle.manifest, *one) for one in chosen.items())), "")
    measured = (one.gates for one in bundle.manifest.reductions if one.precision == precision)
    gates = [gate for rows in measured for gate in rows]
    if not any(gate.limit is not None for gate in gates):
        return "its gates were not measured; ask for this precision to measure it"
    failed = [gate.measure for gate in gates if not gate.passed]
    return f"its gate {failed[0]} failed" if failed else ""


def _parity(manifest: Manifest, graph: str, variant: Variant) -> str:
    """Return why a graph's parity with the torch model does not hold, "" where it does."""
    name = variant.attention or "fp32"
    rows = [row for row in manifest.parity if (row.graph, row.variant) == (graph, name)]
    if not rows:
        return f"the parity of {graph} ({name}) was not measured"
    kept = all(row.max_rel_error <= row.tolerance for row in rows)
    return "" if kept else f"the parity of {graph} ({name}) is beyond its tolerance"


def measure_choice(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    *,
    threads: int | None = None,
    rounds: int = ROUNDS,
    photo: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[MeasuredChoice, tuple[tuple[str, str], ...]]:
    """Time the candidates that are not refused; returns the choice, and (name, why) of the others.

    `threads`: as in `samclip.load`; `photo`: an image, None for one that comes with samclip. All
    models are open at the same time. Nothing is written. Raises BackendUnavailableError where no
    candidate runs, ImageError, EngineRunError.
    """
    image = load_image(photo or packaged_photos() / PHOTO)
    left_out = [(one.name, one.refusal) for one in candidates if one.refusal]
    runners: list[_Runner] = []
    with ExitStack() as stack:
        for candidate in (one for one in candidates if not one.refusal):
            options = EngineOptions(threads=threads, precision=candidate.engine_precision)
            try:
                model = stack.enter_context(
                    Model(bundle, candidate.backend, options, candidate.precision)
                )
                if candidate.engine_precision != FULL:
                    model.prepare()  # all graphs are judged before one is used
            except EngineError as error:
                left_out.append((candidate.name, str(error)))
                continue
            runners.append(_Runner(candidate, model))
        if not runners:
            reasons = " ".join(f"{name}: {why.rstrip('. ')}." for name, why in left_out)
            raise BackendUnavailableError(
                f"nothing can be measured for {bundle.manifest.name!r} on this CPU. {reasons} "
                "Install a backend, or export the bundle with its verification."
            )
        for number in track(progress, range(WARM_UP + rounds), "rounds"):
            for runner in runners if number % 2 == 0 else reversed(runners):
                runner.run(image, is_kept=number >= WARM_UP)
    choice = MeasuredChoice(
        key=ChoiceKey.here(bundle, threads),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        speeds=rank([runner.speed() for runner in runners]),
    )
    return choice, tuple(left_out)


class _Runner:
    def __init__(self, candidate: Candidate, model: Model) -> None:
        self._candidate, self._model = candidate, model
        self._samples: list[float] = []

    def run(self, image: object, is_kept: bool) -> None:
        """Answer the photo once."""
        start = time.perf_counter()
        with self._model.encode(image) as scene:
            height, width = scene.size
            scene.segment(boxes=[(width / 4, height / 4, width * 3 / 4, height * 3 / 4)])
        if is_kept:
            self._samples.append((time.perf_counter() - start) * 1e3)

    def speed(self) -> Speed:
        """Return what it took."""
        return Speed(
            backend=self._candidate.backend.name,
            precision=self._candidate.precision,
            engine_precision=self._candidate.engine_precision,
            median=statistics.median(self._samples),
            samples=tuple(self._samples),
        )


def rank(speeds: Sequence[Speed]) -> tuple[Speed, ...]:
    """Sort speeds by their medians; of those within 3 % of the next fastest the first given leads.

    So noise alone neither changes the order by rule, nor takes a reduced precision for FP32.
    """
    return tuple(_ranked(list(speeds)))


def _ranked(rest: list[Speed]) -> Iterator[Speed]:
    while rest:
        best = min(one.median for one in rest)
        chosen = next(one for one in rest if one.median <= best * NEAR)
        rest.remove(chosen)
        yield chosen
