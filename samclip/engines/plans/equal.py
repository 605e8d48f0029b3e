"""Plans that a build would only repeat, and those that it replaces."""

from __future__ import annotations

import logging

from samclip.engines.plans.library import Library
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import BuiltFor, Sidecar, identify
from samclip.engines.plans.store import (
    StoredPlan,
    list_plans,
    plan_folder,
    read_plan,
    remove_plan,
)
from samclip.engines.steps import RemovePlan
from samclip.errors import PlanDamagedError

_logger = logging.getLogger("samclip")


def find_equal(request: BuildRequest, library: Library) -> StoredPlan | None:
    """Return a sound plan of the same bytes, built in the same way for the same GPUs, if any.

    One that has failed the gate is none.
    """
    graph = identify(request.source)
    for stored in list_plans([request.folder or plan_folder()]):
        built = stored.sidecar
        if built is None or not _same_recipe(built, request, library):
            continue
        if (built.serves.onnx_sha256, built.serves.weights_sha256) != (
            graph.onnx_sha256,
            graph.weights_sha256,
        ):
            continue
        if built.gate.state != "failed" and _is_sound(stored):
            return stored
    return None


def remove_superseded(new: StoredPlan) -> None:
    """Remove older builds of the plan `new`: same bundle, graph, library, targets and settings."""
    for stored in list_plans([new.path.parent]):
        if stored.sidecar is None or new.sidecar is None or stored.path == new.path:
            continue
        if _place(stored.sidecar) == _place(new.sidecar):
            try:
                remove_plan(stored.path)
            except OSError as error:  # the new one is found first
                _logger.warning(
                    "the older plan %s cannot be removed: %s. Remove it.",
                    stored.path,
                    error.strerror,
                    extra={"steps": (RemovePlan(stored.path.stem),)},
                )


def _same_recipe(built: Sidecar, request: BuildRequest, library: Library) -> bool:
    axes_differ = any(request.axes.get(name) != axis for name, axis in built.axes.items())
    gpu = library.state.gpu if library.kind.needs_gpu else None
    return (
        not axes_differ
        and built.asked_options == request.options
        and (built.asked is not None or built.attention_kernels == request.attention_kernels)
        and (built.library, built.library_version) == (library.name, library.version)
        and built.target.capabilities == request.capabilities
        and (gpu is None or _models(built.target) == (gpu.name, gpu.processors, gpu.memory))
    )


def _models(target: BuiltFor) -> tuple[object, ...]:
    return target.gpu, target.processors, target.memory


def _is_sound(stored: StoredPlan) -> bool:
    try:
        read_plan(stored)
    except (PlanDamagedError, FileNotFoundError):
        return False
    return True


def _place(sidecar: Sidecar) -> tuple[object, ...]:
    graph = sidecar.serves
    return (
        (graph.origin or (graph.onnx_sha256, graph.weights_sha256)),
        (graph.name, graph.precision, graph.attention),
        (sidecar.library, sidecar.library_version, sidecar.target.capabilities),
        (sidecar.asked_options, sidecar.axes),
    )
