"""The choice of a backend: one that the bundle was made for, that works here and is ready."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar, get_args

from samclip.engines.base import Backend, EngineOptions, GraphKey, Probe, library_version
from samclip.engines.registry import Choice, PassedOver, candidates, first_of
from samclip.errors import BackendUnavailableError, InputError, PlanError, did_you_mean
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graph, Graphs, Precision, Variant

_logger = logging.getLogger("samclip")

# Encoders that are large matrix products; the others are many short convolutions.
PLAIN_VITS = frozenset({"vit_b", "vit_l", "vit_h"})

Started = TypeVar("Started")


def fastest_first(bundle: Bundle) -> tuple[Backend, ...]:
    """Return the backends that "auto" chooses among for `bundle`, the fastest first."""
    found = candidates()
    if bundle.manifest.model_type in PLAIN_VITS:
        return found
    return tuple(sorted(found, key=lambda backend: backend.traits.slow_convolutions))


def choose_for(
    bundle: Bundle,
    options: EngineOptions | None = None,
    precision: str | None = None,
    among: tuple[Backend, ...] | None = None,
) -> Choice:
    """Choose the fastest backend that works here, that `bundle` was made for and that is ready.

    A backend that would first have to build for minutes is not taken; why, and the step that
    builds, is in the choice. `among`: None for `fastest_first`. Reads no graph. Raises
    BackendUnavailableError when none is left, with the reasons.
    """
    settings = options or EngineOptions()

    def suits(backend: Backend) -> Probe:
        variants = _choose_variants(bundle, backend, precision)
        if "encoder" not in variants:
            wanted = f"{backend.name} in {precision}" if precision else backend.name
            return Probe(False, f"the bundle has no graphs for {wanted}", "export it for that")
        keys = [_graph_key(bundle, name, variant) for name, variant in variants.items()]
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

    return first_of(fastest_first(bundle) if among is None else among, suits)


def start_fastest(
    bundle: Bundle,
    options: EngineOptions,
    precision: str | None,
    start: Callable[[Choice], Started],
) -> Started:
    """Return `start(choice)`; a backend that does not start after all is replaced by the next."""
    among = fastest_first(bundle)
    passed: tuple[PassedOver, ...] = ()
    while True:
        choice = choose_for(bundle, options, precision, among)
        tried = (*passed, *choice.passed_over)
        among = among[among.index(choice.backend) + 1 :]
        try:
            return start(Choice(choice.backend, tried))
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
        backend.probe().available and _choose_variants(bundle, backend, precision)
        for backend in among
    )


def _choose_variants(bundle: Bundle, backend: Backend, precision: str | None) -> dict[str, Variant]:
    """Return the variant of each graph that the model would load, chosen as `EnginePool` does."""
    graphs, version = bundle.manifest.graphs, library_version(backend)
    found: dict[str, Variant] = {}
    for name in Graphs.__struct_fields__:
        graph: Graph | None = getattr(graphs, name)
        if graph is None:
            continue
        variant = graph.variant_for(backend.name, precision, version)
        if variant is None and name != "encoder":
            variant = graph.variant_for(backend.name, version=version)
        if variant is not None:
            found[name] = variant
    return found


def _graph_key(bundle: Bundle, name: str, variant: Variant) -> GraphKey:
    files = bundle.manifest.files
    return GraphKey(
        name,
        files[variant.file].sha256,
        None if variant.weights is None else files[variant.weights].sha256,
        origin=str(bundle.path),
        precision=variant.precision,
        attention=variant.attention,
    )


def check_precision(precision: str | None) -> None:
    """Check that `precision` is None or one that bundles can have; raises InputError.

    Called before any backend is asked.
    """
    known = get_args(Precision)
    if precision is not None and precision not in known:
        raise InputError(
            f"there is no precision {precision!r}{did_you_mean(str(precision), known)}. Choose "
            f"among {', '.join(known)}, or None for the bundle's own choice."
        )
