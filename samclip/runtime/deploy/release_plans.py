"""The TensorRT plans of releases: built and judged before a release serves, removed with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from samclip.engines.backend_names import TENSORRT, TENSORRT_RTX
from samclip.engines.base import Backend
from samclip.engines.plans.request import BuiltPlan
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.plans.store import (
    StoredPlan,
    list_plans,
    remove_plan,
    replace_sidecar,
    search_folders,
)
from samclip.engines.registry import AUTO, decide
from samclip.errors import BackendUnavailableError, BundleError
from samclip.progress import Progress
from samclip.runtime.backend_choice import choose_variants, fastest_first, first_encoder
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.plans.building import PlanSettings, build_plans, check_library
from samclip.runtime.plans.state import find_variant

_logger = logging.getLogger("samclip")


def build_for_release(
    bundle: Bundle, backend: str, precision: str | None, progress: Progress
) -> tuple[str | None, tuple[BuiltPlan, ...]]:
    """Build and judge the plans that a release needs here; return the library and its plans.

    `backend`: as `samclip.load` takes it; with "auto" plans are built if a library that runs them
    works here and the bundle was made for it. Plans that fit are not built again. The library is
    None where no plan is needed. Raises BackendUnavailableError for a backend that was named and
    does not work, PlanBuildError, PlanGateError.
    """
    chosen = _plan_backend(bundle, backend, precision, progress)
    if chosen is None:
        return None, ()
    graphs = tuple(choose_variants(bundle, chosen, precision))
    settings = PlanSettings(backend=chosen.name, graphs=graphs, precision=precision)
    return chosen.name, tuple(build_plans(bundle, settings, progress))


def drop_plans(removed: Iterable[Path], remaining: Iterable[Path]) -> None:
    """Remove the plans of releases that are gone, except those that remaining releases run too.

    Releases share plans of graphs with the same bytes. Such a plan names the release that it was
    built for first; it then names one that remains, so that it does not pass for one of a bundle
    that is gone. What cannot be removed is logged.
    """
    gone = {str(path) for path in removed}
    bundles = list(_open_all(remaining))
    for stored in list_plans(search_folders()) if gone else ():
        if stored.sidecar is None or stored.sidecar.graph.origin not in gone:
            continue
        try:
            _drop_plan(stored, bundles)
        except OSError as error:
            _logger.warning("the plan %s cannot be changed: %s", stored.path, error.strerror)


def _drop_plan(stored: StoredPlan, bundles: list[Bundle]) -> None:
    sidecar = stored.sidecar
    if sidecar is None:
        return
    for bundle in bundles:
        if find_variant(bundle.manifest, sidecar.serves) is not None:
            replace_sidecar(stored, _of_origin(sidecar, str(bundle.path)))
            return
    remove_plan(stored.path)


def _of_origin(sidecar: Sidecar, origin: str) -> Sidecar:
    change = msgspec.structs.replace
    asked = sidecar.asked
    if asked is not None:
        asked = change(asked, graph=change(asked.graph, origin=origin))
    return change(sidecar, graph=change(sidecar.graph, origin=origin), asked=asked)


def _open_all(paths: Iterable[Path]) -> Iterable[Bundle]:
    for path in paths:
        with contextlib.suppress(BundleError):
            yield Bundle.open_unsigned(path)


def _plan_backend(
    bundle: Bundle, name: str, precision: str | None, progress: Progress
) -> Backend | None:
    """Return the backend whose plans the runtime would take here; None when it takes none."""
    if name != AUTO:
        backend = decide(name).backend
        return backend if backend.name in {TENSORRT, TENSORRT_RTX} else None
    for backend in fastest_first(bundle):
        if backend.name not in {TENSORRT, TENSORRT_RTX} or not backend.probe().available:
            continue
        if first_encoder(bundle) not in choose_variants(bundle, backend, precision):
            progress.note(f"{backend.name}: the bundle has no graphs for it, and no plan is built")
            continue
        try:
            check_library(PlanSettings(backend=backend.name))
        except BackendUnavailableError as error:
            progress.note(f"warning: {backend.name} cannot build here: {error}")
            continue
        return backend
    return None
