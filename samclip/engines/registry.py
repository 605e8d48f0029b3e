"""The backends there are, and the choice among them."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version

from samclip.engines import onnxruntime
from samclip.engines.base import Backend, Probe
from samclip.errors import BackendUnavailableError

AUTO = "auto"
BACKENDS: tuple[Backend, ...] = (onnxruntime.CUDA, onnxruntime.CPU)  # the fastest first
WITHOUT_ENGINE = {  # runtimes that people ask for, and the packages that bring them
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13"),
}


def backends() -> tuple[Backend, ...]:
    """Give every backend that this version has, the fastest first, working here or not."""
    return BACKENDS


def available_backends() -> tuple[str, ...]:
    """Give the names of the backends that work on this machine, the fastest first."""
    return tuple(backend.name for backend in backends() if backend.probe().available)


def get_backend(name: str) -> Backend:
    """Give a backend by name, working here or not; raises BackendUnavailableError."""
    known = {backend.name: backend for backend in backends()}
    if name in known:
        return known[name]
    if name in WITHOUT_ENGINE:
        probe = probe_package(name)
        raise BackendUnavailableError(f"{probe.detail}. {probe.remedy}.")
    close = get_close_matches(str(name), [*known, AUTO], 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BackendUnavailableError(
        f"there is no backend {name!r}.{hint} Choose among {', '.join([AUTO, *known])}."
    )


def choose(name: str = AUTO) -> Backend:
    """Give a backend that works here: the one named, or with "auto" the fastest.

    Raises BackendUnavailableError, which says what to do.
    """
    if name != AUTO:
        backend = get_backend(name)
        probe = backend.probe()
        if probe.available:
            return backend
        raise BackendUnavailableError(f"backend {name!r}: {_describe(probe)}")
    probes = {backend: backend.probe() for backend in backends()}
    for backend, probe in probes.items():
        if probe.available:
            return backend
    reasons = " ".join(f"{backend.name}: {_describe(probe)}" for backend, probe in probes.items())
    raise BackendUnavailableError(f"no backend works on this machine. {reasons}")


def probes() -> dict[str, Probe]:
    """Probe every backend, and say of other runtimes whether they are installed: for `doctor`."""
    found = {backend.name: backend.probe() for backend in backends()}
    return {**found, **{name: probe_package(name) for name in WITHOUT_ENGINE}}


def probe_package(name: str) -> Probe:
    """Say which package of a runtime is installed, never importing it, and that it is not used."""
    installed = []
    for package in WITHOUT_ENGINE[name]:
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    state = f"{', '.join(installed)} is installed" if installed else f"{name} is not installed"
    ours = ", ".join(backend.name for backend in backends())
    return Probe(False, f"{state}; this version of samclip has no engine for it", f"Use {ours}")


def _describe(probe: Probe) -> str:
    return f"{probe.detail.rstrip('. ')}. To do: {probe.remedy.rstrip('. ')}."
