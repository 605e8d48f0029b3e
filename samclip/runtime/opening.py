"""The engines of a bundle, opened: its release is held, and an encoder is ready if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from samclip.disk.partial_files import Lock
from samclip.engines.base import Backend, EngineOptions
from samclip.engines.machine.host import usable_cores
from samclip.runtime.backend_choice import first_encoder, waits_for_a_shape
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
    meanwhile: Callable[[EnginePool], None] | None = None,
) -> Opened:
    """Hold a bundle and make the encoder of its first shape ready, unless an image decides which.

    `meanwhile`: called in another thread while the backend does that, see `EnginePool.load`. Raises
    as `samclip.load`.
    """
    hold = hold_release(bundle.path)
    trial = partial(_make_trial, bundle)
    pool = EnginePool(bundle, backend, options, precision, trial, max_shapes)
    if not waits_for_a_shape(bundle, backend, options):
        pool.load(first_encoder(bundle), None if meanwhile is None else partial(meanwhile, pool))
    return Opened(pool, hold)


def load_decoder(pool: EnginePool, canvas: tuple[int, int]) -> None:
    """Load what decodes first prompts on a canvas (h, w), where another core is free for it.

    Only the last and largest graph: another one would still load while the encoder runs, and add to
    the process's peak.
    """
    if pool.backend.traits.parallel_loads and usable_cores() > 1:
        pool.load(pool.decoders(canvas)[-1])


def _make_trial(bundle: Bundle, graph: str, axes: Mapping[str, AxisRange]) -> Trial:
    from samclip.runtime.plans.trial import Trials  # noqa: PLC0415 - for plans alone

    return Trials(bundle).make(graph, axes)
