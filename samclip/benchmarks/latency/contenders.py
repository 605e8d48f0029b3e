"""What is timed: a bundle, on a backend, in a precision; opened so that its graphs are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from samclip.benchmarks.latency.clock import StageClock
from samclip.benchmarks.latency.timed_backend import TimedBackend
from samclip.engines.base import EngineOptions
from samclip.engines.registry import AUTO, Choice, decide
from samclip.runtime.backend_choice import start_fastest
from samclip.runtime.bundles.bundle import Bundle, find_bundle
from samclip.runtime.model import Model


@dataclass(frozen=True)
class Variant:
    """A bundle by name or path (None: the default one), and how to run it."""

    bundle: str | None = None
    backend: str = AUTO
    precision: str | None = None
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class Contender:
    """An open model whose graphs are timed; `name` is what rows call it."""

    name: str
    variant: Variant
    model: Model
    backend: TimedBackend

    @property
    def clock(self) -> StageClock:
        """The clock of its graphs."""
        return self.backend.clock


def combine(
    bundles: Sequence[str],
    backends: Sequence[str],
    precisions: Sequence[str],
    threads: int | None,
) -> tuple[Variant, ...]:
    """List every bundle on every backend in every precision; none of a kind means its default."""
    models: Sequence[str | None] = bundles or [None]
    kinds: Sequence[str | None] = precisions or [None]
    chosen = product(models, backends or [AUTO], kinds)
    return tuple(Variant(bundle, backend, kind, threads) for bundle, backend, kind in chosen)


def open_variant(variant: Variant, cache: Path) -> tuple[Model, TimedBackend]:
    """Load a model as `samclip.load` does, its graphs timed, its text cache in `cache`.

    Raises as `samclip.load`.
    """
    bundle = Bundle.open(find_bundle(variant.bundle))
    options = EngineOptions(threads=variant.threads)

    def start(choice: Choice) -> tuple[Model, TimedBackend]:
        timed = TimedBackend(choice.backend, StageClock())
        found = Choice(timed, choice.passed_over)
        return Model(bundle, found, options, variant.precision, cache), timed

    if variant.backend != AUTO:
        return start(decide(variant.backend))
    return start_fastest(bundle, options, variant.precision, start)


def name_all(opened: Sequence[tuple[Variant, Model, TimedBackend]]) -> tuple[Contender, ...]:
    """Name models by what tells them apart: bundle, then backend, then precision of the encoder.

    What is still alike, as two folders of one name, is numbered.
    """
    facts = [
        (model.manifest.name, model.backend, backend.precisions["encoder"])
        for _, model, backend in opened
    ]
    differs = [len({fact[kind] for fact in facts}) > 1 for kind in range(3)]
    names: list[str] = []
    for fact in facts:
        parts = [text for text, needed in zip(fact, [True, *differs[1:]], strict=True) if needed]
        name = " ".join(parts)
        alike = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{alike + 1}" if alike else name)
    return tuple(Contender(name, *one) for name, one in zip(names, opened, strict=True))
