"""Models opened so that their graphs are timed, and the conditions they are timed under.

A variant is a bundle on a backend in a precision. Conditions are the power mode and the clocks of
the machine, read from files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Generic, TypeVar

from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.benchmarks.measurements import ClockRange, Conditions, RunSettings, Timing
from samclip.engines.base import FULL, Backend, EngineOptions
from samclip.engines.machine.jetson_power import read_governors, read_power
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.engines.registry import AUTO, Choice, decide, get_backend
from samclip.runtime.backend_choice import (
    check_engine_precision,
    check_precision,
    choose_variants,
    first_encoder,
    start_fastest,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.devices import check_device, parse_device
from samclip.runtime.model import Model

B_co = TypeVar("B_co", bound=TimedBackend, covariant=True)

CUDA_GRAPHS = frozenset({"tensorrt", "tensorrt-rtx"})  # backends that capture them


@dataclass(frozen=True)
class Variant:
    """A bundle by name or path (None: the default one), and how to run it.

    `aspects`: the shapes of input that it keeps to, and `engine_precision`: see `samclip.load`.
    """

    bundle: str | None = None
    backend: str = AUTO
    precision: str | None = None
    threads: int | None = None
    device: str | None = None
    aspects: tuple[str, ...] | None = None
    engine_precision: str | None = None

    @property
    def options(self) -> EngineOptions:
        """How its engines run; raises InputError for a device or a precision that is none."""
        return EngineOptions(
            threads=self.threads,
            device=parse_device(self.device).index,
            precision=check_engine_precision(self.engine_precision) or FULL,
        )


@dataclass(frozen=True, eq=False)
class OpenModel(Generic[B_co]):
    """An open model whose graphs are timed; `name` is what rows call it."""

    name: str
    variant: Variant
    model: Model
    backend: B_co

    @property
    def clock(self) -> StageClock:
        """The clock of its graphs."""
        return self.backend.clock


Contender = OpenModel[TimedBackend]


def combine(
    bundles: Sequence[str],
    backends: Sequence[str],
    precisions: Sequence[str],
    threads: int | None,
    device: str | None = None,
    engine_precisions: Sequence[str] = (),
) -> tuple[Variant, ...]:
    """List every bundle on every backend in every precision; none of a kind means its default.

    Backends that have none of the `engine_precisions` besides FP32 are listed in FP32 alone.
    """
    models: Sequence[str | None] = bundles or [None]
    kinds: Sequence[str | None] = precisions or [None]
    engines: Sequence[str | None] = engine_precisions or [None]
    chosen = product(models, backends or [AUTO], kinds, engines)
    return tuple(
        Variant(bundle, backend, kind, threads, device, engine_precision=engine)
        for bundle, backend, kind, engine in chosen
        if engine in {None, FULL} or _computes_in(backend, engine)
    )


def _computes_in(backend: str, engine_precision: str | None) -> bool:
    """Whether a backend may compute in a precision; with "auto" that is found out later."""
    return backend == AUTO or engine_precision in get_backend(backend).traits.engine_precisions


def open_variant(
    variant: Variant, cache: Path | None, wrap: Callable[[Backend, StageClock], B_co]
) -> tuple[Model, B_co]:
    """Load a model as `samclip.load` does, on a timed backend; raises as it does.

    `wrap` makes the timed backend of the one that the model would run on: `TimedBackend`, or a
    class derived from it. `cache`: folder of text embeddings, None for the usual one.
    """
    check_precision(variant.precision)
    bundle = Bundle.open(find_bundle(variant.bundle)).limited_to(variant.aspects)
    options, wish = variant.options, parse_device(variant.device)
    wanted = check_engine_precision(variant.engine_precision)

    def start(choice: Choice) -> tuple[Model, B_co]:
        timed = wrap(choice.backend, StageClock())
        found = replace(choice, backend=timed)
        precision = variant.precision or choice.precision
        chosen = replace(options, precision=wanted or choice.engine_precision)
        model = Model(bundle, found, chosen, precision, cache)
        variant_here = choose_variants(bundle, timed, precision).get(first_encoder(bundle))
        if variant_here is not None:  # it may be loaded with the first photo alone
            timed.precisions.setdefault("encoder", variant_here.precision)
        return model, timed

    if variant.backend != AUTO:
        check_device(get_backend(variant.backend), wish)
        return start(decide(variant.backend))
    return start_fastest(bundle, options, variant.precision, start, wish, wanted)


def name_all(opened: Sequence[tuple[Variant, Model, B_co]]) -> tuple[OpenModel[B_co], ...]:
    """Name models by what distinguishes them: bundle, backend, precision of the encoder, engine's.

    The shapes of input that a model was limited to are always named.

    Names that are still alike, as of two folders of one name, are numbered.
    """
    facts = [
        (
            model.manifest.name,
            model.backend,
            backend.precisions["encoder"],
            f"engine-{model.engine_precision}",
        )
        for _, model, backend in opened
    ]
    differs = [len({fact[kind] for fact in facts}) > 1 for kind in range(4)]
    names: list[str] = []
    for fact, (variant, *_) in zip(facts, opened, strict=True):
        parts = [text for text, needed in zip(fact, [True, *differs[1:]], strict=True) if needed]
        parts += variant.aspects or ()
        name = " ".join(parts)
        alike = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{alike + 1}" if alike else name)
    return tuple(OpenModel(name, *one) for name, one in zip(names, opened, strict=True))


def describe_conditions(order: str, files: MachineFiles | None = None) -> Conditions:
    """Read the power mode, or the CPU's governor, and the ranges of the clocks.

    Most containers and virtual machines have no such files: then all is None or empty.
    """
    files = MachineFiles() if files is None else files
    power = read_power(files)
    mode = power.mode.name if power.mode is not None else read_governors(files)
    clocks = []
    for clock in power.clocks:
        ends = {"lowest": clock.lowest * clock.unit, "highest": clock.highest * clock.unit}
        clocks.append(ClockRange(name=clock.name, **ends))
    return Conditions(
        power_mode=mode, clocks=tuple(clocks), clocks_pinned=power.pinned, order=order
    )


def describe_settings(contender: Contender, warm_up: int, timings: list[Timing]) -> RunSettings:
    """Describe how a model was run; rounds are counted in its warm timings."""
    options = contender.variant.options
    name, backend = contender.name, contender.backend
    kept = [len(t.samples) for t in timings if t.model == name and t.state == "warm"]
    return RunSettings(
        model=name,
        backend=backend.name,
        precisions=dict(backend.precisions),
        threads=options.threads,
        device=options.device,
        cuda_graphs=options.cuda_graphs if backend.traits.captures_graphs else None,
        transfers="none" if backend.on_host else "included",
        warm_up=warm_up,
        repeats=max(kept, default=0),
    )
