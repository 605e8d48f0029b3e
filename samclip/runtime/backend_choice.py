"""The choice of a backend: one that the bundle was made for, that works here and is ready."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, get_args

from samclip.engines.base import Backend, EngineOptions, GraphKey, Probe, library_version
from samclip.engines.registry import Choice, PassedOver, candidates, first_of
from samclip.errors import BackendUnavailableError, InputError, PlanError, did_you_mean
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graph, Graphs, Precision, Variant

_logger = logging.getLogger("samclip")

# Encoders that are large matrix products; the others are many short convolutions.
PLAIN_VITS = frozenset(
    {"vit_b", "vit_l", "vit_h", "radio-v3-b", "radio-v3-l", "radio-v3-h", "radio-v3-g"}
    | {"radio-v4-so400m", "radio-v4-h"}
)

Started = TypeVar("Started")

DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,4})?")
MAX_DEVICE = 9999


@dataclass(frozen=True)
class DeviceWish:
    """The device that a caller asked for; `on_host`: the CPU, a GPU, or None for either.

    `index` is the number of the GPU, 0 for the CPU.
    """

    index: int = 0
    on_host: bool | None = None

    def allows(self, backend: Backend) -> bool:
        """Whether the backend runs on such a device."""
        return self.on_host is None or backend.traits.on_host == self.on_host

    def __str__(self) -> str:
        return "the CPU" if self.on_host else f"GPU {self.index}"


ANY_DEVICE = DeviceWish()


def parse_device(device: object) -> DeviceWish:
    """Read what `load` takes: the index of a GPU, "cpu", "cuda" or "cuda:1".

    0 also stands for the CPU, where the backend runs there. Raises InputError.
    """
    if isinstance(device, str) and DEVICE.fullmatch(device):
        return DeviceWish(int(device.partition(":")[2] or 0), device == "cpu")
    try:
        index = -1 if isinstance(device, bool) else operator.index(device)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index <= MAX_DEVICE:
        raise InputError(
            f"there is no device {device!r:.100}. Give the index of a GPU, counted from 0, "
            "'cuda:0', or 'cpu'; or leave it out."
        )
    return DeviceWish(index, False if index else None)


def check_device(backend: Backend, device: DeviceWish) -> None:
    """Check that a backend, chosen by name, runs on `device`; raises InputError."""
    if not device.allows(backend):
        where = "the CPU" if backend.traits.on_host else "a GPU"
        raise InputError(
            f"backend {backend.name!r} runs on {where}, asked for {device}. Leave device out, or "
            "choose a backend for it."
        )


def _on_device(bundle: Bundle, device: DeviceWish) -> tuple[Backend, ...]:
    """Return the backends of "auto" that run on `device`, the fastest first.

    Raises InputError for a GPU where no backend for GPUs works.
    """
    found = tuple(backend for backend in fastest_first(bundle) if device.allows(backend))
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
            have = _precisions(bundle, backend.name)
            offer = f", only in {', '.join(have)}" if have else ""
            return Probe(
                False, f"the bundle has no graphs for {wanted}{offer}", "export it for that"
            )
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
    device: DeviceWish = ANY_DEVICE,
) -> Started:
    """Return `start(choice)`; a backend that does not start after all is replaced by the next.

    Raises InputError for a GPU where no backend for GPUs works.
    """
    among = _on_device(bundle, device)
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


def _precisions(bundle: Bundle, backend: str | None = None) -> tuple[str, ...]:
    """List the precisions of a bundle's encoder, for `backend` alone if it is given."""
    variants = bundle.manifest.graphs.encoder.variants
    return tuple(
        dict.fromkeys(v.precision for v in variants if backend is None or backend in v.backends)
    )
