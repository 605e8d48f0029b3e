"""The list of backends, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from samclip.engines.base import FULL, Backend, EnginePrecision, Probe
from samclip.engines.onnxruntime import backend as onnxruntime
from samclip.engines.openvino import backend as openvino
from samclip.engines.tensorrt import backend as tensorrt
from samclip.errors import BackendUnavailableError, Step, UnknownBackendError, did_you_mean

AUTO = "auto"
BACKENDS: tuple[Backend, ...] = (  # the fastest first
    tensorrt.TENSORRT,
    tensorrt.TENSORRT_RTX,
    onnxruntime.CUDA,
    openvino.OPENVINO,
    onnxruntime.CPU,
    onnxruntime.TENSORRT,
)


@dataclass(frozen=True)
class PassedOver:
    """A faster backend that was not taken, why not, and what to do, in words and as facts."""

    name: str
    reason: str
    remedy: str = ""
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        advice = f" To do: {self.remedy.rstrip('. ')}." if self.remedy else ""
        return f"{self.name}: {self.reason.rstrip('. ')}.{advice}"


@dataclass(frozen=True)
class Choice:
    """The backend that was taken, and those before it that were not.

    `precision`: the one that was measured as the fastest, None for the bundle's preference;
    `measured`: what an image took, in ms, None where the choice was made by rule;
    `engine_precision`: what its engines then computed in.
    """

    backend: Backend
    passed_over: tuple[PassedOver, ...] = ()
    precision: str | None = None
    measured: float | None = None
    engine_precision: EnginePrecision = FULL

    def after(self, passed: PassedOver) -> Choice:
        """Return this choice with one more backend that was passed over, before all others."""
        return replace(self, passed_over=(passed, *self.passed_over))


def backends() -> tuple[Backend, ...]:
    """Return every backend that this version has, the fastest first, working here or not."""
    return BACKENDS


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that work on this machine, the fastest first."""
    return tuple(backend.name for backend in backends() if backend.probe().available)


def get_backend(name: str) -> Backend:
    """Return a backend by name, working here or not; raises UnknownBackendError."""
    known = {backend.name: backend for backend in backends()}
    if isinstance(name, str) and name in known:
        return known[name]
    hint = did_you_mean(str(name), [*known, AUTO])
    raise UnknownBackendError(
        f"there is no backend {name!r:.100}{hint}. Choose among {', '.join([AUTO, *known])}."
    )


def choose(name: str = AUTO) -> Backend:
    """Return a backend that works here: the one named, or with "auto" the fastest.

    Raises BackendUnavailableError, which says what to do.
    """
    return decide(name).backend


def decide(name: str = AUTO, suits: Callable[[Backend], Probe] | None = None) -> Choice:
    """Choose as `choose` does, and record why faster backends were not taken.

    `suits` returns, for "auto", whether a backend that works here has all that a bundle needs of
    it. Raises BackendUnavailableError, which says what to do.
    """
    if not isinstance(name, str) or name != AUTO:
        backend = get_backend(name)
        probe = backend.probe()
        if probe.available:
            return Choice(backend)
        message = (
            f"backend {name!r}: {probe.detail.rstrip('. ')}. To do: {probe.remedy.rstrip('. ')}."
        )
        raise BackendUnavailableError(message, steps=probe.steps)
    return first_of(candidates(), suits)


def candidates() -> tuple[Backend, ...]:
    """Return the backends that "auto" chooses among, the fastest first."""
    return tuple(backend for backend in backends() if not backend.traits.by_name_alone)


def first_of(among: tuple[Backend, ...], suits: Callable[[Backend], Probe] | None = None) -> Choice:
    """Choose the first backend that works here and `suits`; raises BackendUnavailableError."""
    passed: list[PassedOver] = []
    works = False
    for backend in among:
        probe = backend.probe()
        if probe.available and suits is not None:
            works = True
            probe = suits(backend)
        if probe.available:
            return Choice(backend, tuple(passed))
        passed.append(PassedOver(backend.name, probe.detail, probe.remedy, probe.steps))
    reasons = " ".join(map(str, passed))
    steps = [step for one in passed for step in one.steps]
    fault = "no backend that works here fits" if works else "no backend works on this machine"
    raise BackendUnavailableError(f"{fault}. {reasons}", steps=steps)


def probes() -> dict[str, Probe]:
    """Probe every backend: for `doctor`."""
    return {backend.name: backend.probe() for backend in backends()}
