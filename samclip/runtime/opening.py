"""The engines of a bundle, opened: its release is held, and an encoder is ready if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from samclip.disk.partial_files import Lock
from samclip.engines.base import Backend, EngineOptions
from samclip.runtime.backend_choice import waits_for_a_shape
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.holds import hold_release
from samclip.runtime.engine_pool import EnginePool

if TYPE_CHECKING:
    from samclip.engines.plans.gate.cases import Trial
    from samclip.engines.plans.sidecar import AxisRange


@dataclass(frozen=True)
class Opened:
    """The engines, and the hold on a release, None for a bundle that is not one."""

    pool: EnginePool
    hold: Lock | None


def open_engines(
    bundle: Bundle,
    backend: Backend,
    options: EngineOptions,
    precision: str | None = None,
    max_shapes: int | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Opened:
    """Hold a bundle, and make its encoder ready unless the first image decides which one.

    `meanwhile`: called in another thread while the backend does that. Raises as `samclip.load`.
    """
    hold = hold_release(bundle.path)
    trial = partial(_make_trial, bundle)
    pool = EnginePool(bundle, backend, options, precision, trial, max_shapes)
    if not waits_for_a_shape(bundle, backend, options):
        load_encoder(pool, bundle.canvases[0], meanwhile)
    return Opened(pool, hold)


def load_encoder(
    pool: EnginePool, canvas: tuple[int, int], meanwhile: Callable[[], None] | None = None
) -> None:
    """Make the encoder of a canvas (h, w) ready, and its mask decoder where a core is free.

    A backend that loads graphs one by one gets the decoder with the first prompt. `meanwhile`: what
    else is to be done in the other thread, before that.
    """
    manifest = pool.bundle.manifest

    def load_decoder() -> None:
        if meanwhile is not None:
            meanwhile()
        if pool.loads_ahead:
            for graph in reversed(pool.decoders(canvas)):  # the large one first, one by one
                pool.load(graph)

    pool.load(manifest.name_for("encoder", canvas), load_decoder)


def _make_trial(bundle: Bundle, graph: str, axes: Mapping[str, AxisRange]) -> Trial:
    from samclip.runtime.plans.trial import Trials  # noqa: PLC0415 - for plans alone

    return Trials(bundle).make(graph, axes)
