"""The choice of a backend: one that the bundle was made for, that works here and is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast, get_args

from samclip.engines.base import (
    FULL,
    Backend,
    EngineOptions,
    EnginePrecision,
    Probe,
    library_version,
)
from samclip.engines.registry import Choice, PassedOver, candidates, first_of
from samclip.errors import BackendUnavailableError, InputError, PlanError, did_you_mean
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Precision, Variant, base_name
from samclip.runtime.devices import ANY_DEVICE, DeviceWish
from samclip.runtime.measured_choice import MeasuredChoice, Speed, find_choice

_logger = logging.getLogger("samclip")

# Encoders that are large matrix products; the others are many short convolutions.
PLAIN_VITS = frozenset(
    {"vit_b", "vit_l", "vit_h", "radio-v3-b", "radio-v3-l", "radio-v3-h", "radio-v3-g"}
    | {"radio-v4-so400m", "radio-v4-h"}
)

Started = TypeVar("Started")


def _on_device(backends: tuple[Backend, ...], device: DeviceWish) -> tuple[Backend, ...]:
    """Return those of the backends that run on `device`.

    Raises InputError for a GPU where no backend for GPUs works.
    """
    found = tuple(backend for backend in backends if device.allows(backend))
    if device.on_host is False and not any(backend.probe().available for backend in found):
        reasons = " ".join(
            str(PassedOver(backend.name, probe.detail, probe.remedy))
            for backend in found
            for probe in (backend.probe(),)
        )
        raise InputError(
            f"device asks for {device}, and no backend for GPUs works here. Leave device out to "
            f"run on the CPU. {reasons}"
        )
    return found


def fastest_first(bundle: Bundle) -> tuple[Backend, ...]:
    """Return the backends that "auto" chooses among for `bundle`, by rule the fastest first."""
    found = candidates()
    if bundle.manifest.model_type in PLAIN_VITS:
        return found
    return tuple(sorted(found, key=lambda backend: backend.traits.slow_convolutions))


def choose_for(
    bundle: Bundle,
    options: EngineOptions | None = None,
    precision: str | None = None,
    among: tuple[Backend, ...] | None = None,
    measured: MeasuredChoice | None = None,
    engine_precision: EnginePrecision | None = None,
) -> Choice:
    """Choose the fastest backend that works here, that `bundle` was made for and that is ready.

    A backend that would first have to build for minutes is not taken; why, and the step that
    builds, is in the choice. `among`: the backends, the fastest first, and `measured`, what was
    measured here; None for `rank_backends`. `engine_precision`: None for what was measured. Reads
    no graph. Raises BackendUnavailableError when
    none is left, with the reasons.
    """
    settings = options or EngineOptions()
    if among is None:
        among, measured = rank_backends(bundle, settings, precision, engine_precision)

    def suits(backend: Backend) -> Probe:
        variants = choose_variants(bundle, backend, precision)
        if first_encoder(bundle) not in variants:
            wanted = f"{backend.name} in {precision}" if precision else backend.name
            have = _precisions(bundle, backend.name)
            offer = f", only in {', '.join(have)}" if have else ""
            return Probe(
                False, f"the bundle has no graphs for {wanted}{offer}", "export it for that"
            )
        keys = [bundle.graph_key(name, variant) for name, variant in variants.items()]
        probe = backend.ready(keys, settings)
        if not probe.available:
            _logger.warning(
                "backend %r works here but is not ready for this bundle, the next one is tried: "
                "%s. To do: %s",
                backend.name,
                probe.detail,
                probe.remedy,
                extra={"steps": probe.steps},
            )
        return probe

    choice = first_of(among, suits)
    if measured is None:
        return choice
    speed = measured.speed_of(choice.backend.name, precision, engine_precision)
    if speed is None:
        return choice
    return replace(
        choice,
        precision=speed.precision,
        measured=speed.median,
        engine_precision=speed.engine_precision,
    )


def rank_backends(
    bundle: Bundle,
    options: EngineOptions,
    precision: str | None,
    engine_precision: EnginePrecision | None = None,
) -> tuple[tuple[Backend, ...], MeasuredChoice | None]:
    """Return the backends of "auto", the fastest first, and what was measured of them here.

    By `fastest_first`, in which those that were measured change places. With an
    `engine_precision` other than FP32 only the backends that can compute in it are returned.
    """
    ranked = fastest_first(bundle)
    if engine_precision not in {None, FULL}:
        ranked = tuple(one for one in ranked if engine_precision in one.traits.engine_precisions)
    measured = find_choice(bundle, options.threads)
    if measured is None:
        return ranked, None
    measured = measured.only(lambda speed: _still_holds(bundle, speed))
    return measured.sort(ranked, precision, engine_precision), measured


def _still_holds(bundle: Bundle, speed: Speed) -> bool:
    """Whether an engine may still compute as it was measured: in FP32, or as it was judged here."""
    if speed.engine_precision == FULL:
        return True
    found = [one for one in candidates() if one.name == speed.backend]
    variants = {} if not found else choose_variants(bundle, found[0], speed.precision)
    encoder = first_encoder(bundle)
    if encoder not in variants:
        return False
    # brings in the gate, which few loads need
    from samclip.engines.plans.gate.reduced import is_admitted  # noqa: PLC0415

    graph = bundle.graph_key(encoder, variants[encoder])
    return is_admitted(found[0], graph, speed.engine_precision)


def start_fastest(
    bundle: Bundle,
    options: EngineOptions,
    precision: str | None,
    start: Callable[[Choice], Started],
    device: DeviceWish = ANY_DEVICE,
    engine_precision: EnginePrecision | None = None,
) -> Started:
    """Return `start(choice)`; a backend that does not start after all is replaced by the next.

    `engine_precision`: what engines must compute in where graphs are in FP32, None for what was
    measured. Raises InputError for a GPU where no backend for GPUs works.
    """
    ranked, measured = rank_backends(bundle, options, precision, engine_precision)
    among = _on_device(ranked, device)
    passed: tuple[PassedOver, ...] = ()
    while True:
        choice = choose_for(bundle, options, precision, among, measured, engine_precision)
        tried = (*passed, *choice.passed_over)
        among = among[among.index(choice.backend) + 1 :]
        try:
            return start(replace(choice, passed_over=tried))
        except (BackendUnavailableError, PlanError) as error:
            if not _is_any_left(bundle, precision, among):
                raise
            name = choice.backend.name
            _logger.warning(
                "backend %r does not start, the next one is tried: %s",
                name,
                error,
                extra={"steps": error.steps},
            )
            passed = (*tried, PassedOver(name, str(error), steps=error.steps))


def _is_any_left(bundle: Bundle, precision: str | None, among: tuple[Backend, ...]) -> bool:
    return any(
        backend.probe().available and choose_variants(bundle, backend, precision)
        for backend in among
    )


def first_encoder(bundle: Bundle) -> str:
    """Return the name of the encoder for the first canvas that a bundle's user keeps to."""
    return bundle.manifest.name_for("encoder", bundle.canvases[0])


def waits_for_a_shape(bundle: Bundle, backend: Backend, options: EngineOptions) -> bool:
    """Whether the first image decides which encoder is made ready, and not the load.

    On a GPU, and in fewer bits, the first encoder shows at the load whether the backend starts.
    """
    several = len(bundle.canvases) > 1
    return several and backend.traits.on_host and options.precision == FULL


def choose_variants(bundle: Bundle, backend: Backend, precision: str | None) -> dict[str, Variant]:
    """Return the variant of each graph that the model would load, chosen as `EnginePool` does."""
    graphs, version = bundle.manifest.all_graphs, library_version(backend)
    found: dict[str, Variant] = {}
    for name in bundle.graph_names:
        graph = graphs[name]
        variant = graph.variant_for(backend.name, precision, version)
        if variant is None and base_name(name) != "encoder":
            variant = graph.variant_for(backend.name, version=version)
        if variant is not None:
            found[name] = variant
    return found


def check_precision(precision: str | None, bundle: Bundle | None = None) -> None:
    """Check that `precision` is None or one that bundles can have, and that `bundle` has it.

    Called before any backend is asked. Raises InputError.
    """
    if precision is None:
        return
    known = get_args(Precision)
    if not isinstance(precision, str) or precision not in known:
        raise InputError(
            f"there is no precision {precision!r:.100}{did_you_mean(str(precision), known)}. "
            f"Choose among {', '.join(known)}, or None for the bundle's own choice."
        )
    if bundle is None or any(
        variant.serves(backend, precision)
        for variant in bundle.manifest.graphs.encoder.variants
        for backend in variant.backends
    ):
        return
    have = ", ".join(_precisions(bundle))
    raise InputError(
        f"the bundle {bundle.manifest.name!r} has no encoder in {precision}, only in {have}. "
        f"Choose that, leave precision out, or export the bundle in {precision}."
    )


def check_engine_precision(precision: object) -> EnginePrecision | None:
    """Return what engines are to compute in, None for what was measured; raises InputError."""
    if precision is None:
        return None
    for known in get_args(EnginePrecision):
        if isinstance(precision, str) and precision == known:
            return cast("EnginePrecision", known)
    known = get_args(EnginePrecision)
    raise InputError(
        f"there is no engine_precision {precision!r:.100}{did_you_mean(str(precision), known)}. "
        f"Choose among {', '.join(known)}, or None. The precision of a bundle's graphs is chosen "
        "by precision=."
    )


def _precisions(bundle: Bundle, backend: str | None = None) -> tuple[str, ...]:
    """List the precisions of a bundle's encoder, for `backend` alone if it is given."""
    variants = bundle.manifest.graphs.encoder.variants
    return tuple(
        dict.fromkeys(v.precision for v in variants if backend is None or backend in v.backends)
    )
