"""OpenVINO as a library: imported in this one place, looked up without importing it elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from samclip.engines.base import Probe
from samclip.errors import BackendUnavailableError

PACKAGE = "openvino"
INSTALL = "pip install 'samclip[openvino]'"
OLDEST = (2025, 0)  # before it, settings that are pinned here are unknown or have other names
MAX_MESSAGE = 300  # characters of its messages that are passed on
INTERNALS = re.compile(
    r"Exception from \S+:\d+:"  # source files and lines
    r"|Check '.*?' failed at \S+:\d+:"
    r"|\S+\.(?:cpp|hpp|h):\d+:?"
    r"|0x[0-9a-fA-F]+"
)


def find_library() -> Probe:
    """Look whether a version that serves is installed, without importing it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return Probe(False, "openvino is not installed", INSTALL)
    try:
        number = version(PACKAGE)
    except PackageNotFoundError:  # built from its sources
        return Probe(True, "openvino, CPU")
    if _parsed(number) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Probe(False, f"openvino {number} is too old: {wanted} is the least", INSTALL)
    return Probe(True, f"openvino {number}, CPU")


def import_library() -> ModuleType:
    """Import OpenVINO; raises BackendUnavailableError when it is absent, too old or broken."""
    probe = find_library()
    if not probe.available:
        raise BackendUnavailableError(f"{probe.detail}. To do: {probe.remedy}.")
    try:
        library = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise BackendUnavailableError(
            f"OpenVINO cannot be imported: {error}. To do: {_reinstall()}."
        ) from error
    if not hasattr(library, "Core"):  # an emptied folder imports as a namespace
        raise BackendUnavailableError(f"OpenVINO's files are incomplete. To do: {_reinstall()}.")
    return library


def clean_message(error: BaseException) -> str:
    """Give OpenVINO's message in one line, without its source files and addresses."""
    text = " ".join(INTERNALS.sub(" ", str(error)).split())
    return text[:MAX_MESSAGE].rstrip(". ") or type(error).__name__


def _parsed(number: str) -> tuple[int, ...]:
    """Give the leading numbers of a version: (2026, 4) of "2026.4.1-22982"."""
    return tuple(int(part) for part in re.findall(r"\d+", number)[:2])


def _reinstall() -> str:
    return f"pip uninstall -y {PACKAGE}, then {INSTALL}"
