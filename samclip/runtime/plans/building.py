"""The TensorRT plans of a bundle, built for all its graphs.

The commands that build plans, and the export that builds them at its end, are both thin over this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from samclip.engines.backend_names import TENSORRT
from samclip.engines.base import GraphSource
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.gate.judge import machine_of
from samclip.engines.plans.gate.kept import verdict_here
from samclip.engines.plans.library import Library, choose_targets, is_official, open_library
from samclip.engines.plans.match import find_fitting, host_of
from samclip.engines.plans.request import BuildRequest, BuiltPlan
from samclip.engines.plans.sidecar import DEFAULT_AXES, AxisRange, BuildOptions, identify_key
from samclip.engines.plans.store import StoredPlan, folder_beside, read_plan
from samclip.errors import CapabilityError, PlanDamagedError, did_you_mean
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Variant, base_name
from samclip.runtime.engine_pool import passed_over_notices
from samclip.runtime.graph_outputs import STAND_INS
from samclip.runtime.plans.trial import Trials

LOWERINGS = ("fused", "bias", "fold", "wide", "chunk")  # the fastest first


@dataclass(frozen=True)
class PlanSettings:
    """How to build the plans of a bundle.

    `backend`: "tensorrt" or "tensorrt-rtx"; `graphs`: their names, () for all; `aspects`: the
    shapes of input, as `samclip.load` takes them, () for all; `precision`: None for the one that
    the runtime would take; `targets`: GPU architectures ("sm86"), () for the GPU
    here; `axes`: sizes of dynamic axes that differ from the defaults; `beside`: put the plans next
    to the bundle instead of into the user's cache; `device`: the GPU's index; `force`: build
    even where an equal plan is there; `if_stale`: build nothing for a graph with a sound plan that
    the runtime would take, whatever its settings; `preflight`: refuse builds that cannot fit into
    memory; `gate`: judge each plan before it is written, and refuse one that departs from FP32.
    """

    backend: str = TENSORRT
    graphs: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    precision: str | None = None
    targets: tuple[str, ...] = ()
    axes: Mapping[str, AxisRange] = field(default_factory=dict)
    options: BuildOptions = field(default_factory=BuildOptions)
    beside: bool = False
    device: int = 0
    force: bool = False
    if_stale: bool = False
    preflight: bool = True
    gate: bool = True


def check_library(settings: PlanSettings) -> None:
    """Raise what `build_plans` would raise first: BackendUnavailableError, InputError."""
    choose_targets(open_library(settings.backend, settings.device), settings.targets)


def build_plans(
    bundle: Bundle, settings: PlanSettings, progress: Progress = SILENT
) -> Iterator[BuiltPlan]:
    """Build the plans of a bundle's graphs one after the other; yields each once it is in place.

    Raises before the first build: BackendUnavailableError when the library cannot build here,
    InputError for targets that it does not have, CapabilityError for a graph that the bundle
    lacks. Later: BackendUnavailableError when no variant of a graph is for the library,
    PlanBuildError when a build fails, PlanGateError when a plan is wrong.
    """
    library = open_library(settings.backend, settings.device)
    capabilities = choose_targets(library, settings.targets)
    names = _graph_names(bundle.limited_to(settings.aspects or None), settings.graphs)
    return _build_each(bundle, settings, library, capabilities, names, progress)


def _build_each(
    bundle: Bundle,
    settings: PlanSettings,
    library: Library,
    capabilities: tuple[str, ...],
    names: tuple[str, ...],
    progress: Progress,
) -> Iterator[BuiltPlan]:
    for capability in capabilities:
        if not is_official(library, capability):
            progress.note(
                f"warning: {library.name} {library.version} does not name compute capability "
                f"{capability} among those that it supports, and builds for the GPU here all the "
                "same"
            )
    trials = Trials(bundle)
    for name in names:
        fitting = _find_current(bundle, name, settings, library) if settings.if_stale else None
        if fitting is not None:
            yield BuiltPlan(fitting, reused=True)
            continue
        graph = bundle.manifest.all_graphs[name]
        for notice in passed_over_notices(
            name, graph, library.name, settings.precision, library.version
        ):
            progress.note(notice)
        source = plan_source(bundle, name, library.name, settings.precision, library.version)
        progress.note(f"{name} ({source.precision}): building with {library.name}")
        request = BuildRequest(
            source,
            capabilities,
            axes={**DEFAULT_AXES, **settings.axes},
            options=settings.options,
            folder=folder_beside(bundle.path) if settings.beside else None,
            force=settings.force,
            preflight=settings.preflight,
            trial=partial(trials.make, name),
            gate=settings.gate,
            others=partial(other_sources, bundle, source, library.name, library.version),
        )
        yield build_plan(request, library, progress)


def _find_current(
    bundle: Bundle, name: str, settings: PlanSettings, library: Library
) -> StoredPlan | None:
    """Return a sound plan that the runtime would load here without judging it; None if none is.

    Reads sidecars and that plan, and no graph.
    """
    variant = _plan_variant(bundle, name, library.name, settings.precision, library.version)
    host = host_of(library)
    if variant is None or host is None:
        return None
    found = find_fitting(identify_key(bundle.graph_key(name, variant)), host)
    if found is None or found.sidecar is None:
        return None
    if settings.gate and verdict_here(found.sidecar, machine_of(library)).state == "unjudged":
        return None
    try:
        read_plan(found)
    except (PlanDamagedError, FileNotFoundError):
        return None
    return found


def plan_source(
    bundle: Bundle,
    graph: str,
    backend: str,
    precision: str | None,
    version: str | None = None,
) -> GraphSource:
    """Read the variant of a graph that the runtime would run on `backend`.

    `version`: that of the backend's library. As in the runtime, a graph other than the encoder
    that lacks the precision is taken in its preferred variant. Graphs for TensorRT serve TensorRT
    for RTX where none are for it alone.
    """
    variant = _plan_variant(bundle, graph, backend, precision, version)
    if variant is not None:
        return bundle.variant_source(graph, variant)
    wanted = precision if base_name(graph) == "encoder" else None
    return bundle.source(graph, backend, wanted, version)  # raises, with what there is


def other_sources(
    bundle: Bundle, source: GraphSource, backend: str, version: str | None
) -> Iterator[GraphSource]:
    """Read the other variants of a graph that a backend could run in place of `source`.

    First those of its precision, in the order of LOWERINGS, then those in FP32.
    """
    graph = bundle.manifest.all_graphs[source.name]
    precisions = dict.fromkeys((source.precision, "fp32"))
    found = [
        variant
        for precision in precisions
        for variant in sorted(graph.variants, key=_lowering_rank)
        if variant.precision == precision
        and {backend, TENSORRT} & set(variant.backends)
        and variant.unmet_need(backend, version) is None
    ]
    for variant in found:
        if (variant.precision, variant.attention) != (source.precision, source.attention):
            yield bundle.variant_source(source.name, variant)


def _lowering_rank(variant: Variant) -> int:
    attention = variant.attention
    return LOWERINGS.index(attention) if attention in LOWERINGS else len(LOWERINGS)


def _plan_variant(
    bundle: Bundle, graph: str, backend: str, precision: str | None, version: str | None
) -> Variant | None:
    """Return the variant that `plan_source` reads; None when the bundle has none."""
    described = bundle.manifest.graph(graph)
    if described is None:
        return None
    wishes = (
        (precision,) if base_name(graph) == "encoder" or precision is None else (precision, None)
    )
    found = (
        described.variant_for(name, wish, version)
        for wish in wishes
        for name in (backend, TENSORRT)
    )
    return next(filter(None, found), None)


def _graph_names(bundle: Bundle, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the graphs to build; a name without a shape stands for all shapes of that graph.

    The mask decoder's plan does for all prompts.
    """
    present = tuple(name for name in bundle.graph_names if base_name(name) not in STAND_INS)
    chosen: list[str] = []
    for name in asked:
        found = [other for other in present if name in {other, base_name(other)}]
        if not found:
            raise CapabilityError(
                f"the bundle {bundle.manifest.name!r} has no graph {name!r}"
                f"{did_you_mean(name, present)}, only {', '.join(present)}. Choose among those."
            )
        chosen += found
    return tuple(dict.fromkeys(chosen)) or present
