"""The packages that samclip asks for, as its own metadata lists them, and what is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

# Distributions that bring the same module: one of them is enough.
STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless"),
}
# Those of backends have remedies of their own, told by the table of backends.
LEFT_OUT = frozenset({"dev", "fuzz", "gpu", "tensorrt", "openvino"})
_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+).*?(?:extra == ['\"](?P<extra>[\w-]+)['\"])?$")


@dataclass(frozen=True)
class Package:
    """A package: `extra` is None for one that is always needed, `version` for one not there."""

    name: str
    extra: str | None
    version: str | None


def list_packages() -> list[Package]:
    """List the packages of samclip and of its extras; empty when samclip itself is not installed.

    Nothing is imported: versions come from the metadata of the installed packages.
    """
    try:
        requirements = metadata.requires("samclip") or []
    except metadata.PackageNotFoundError:  # run from a source folder
        return []
    found = [_REQUIREMENT.match(text) for text in requirements]
    pairs = [(match["name"], match["extra"]) for match in found if match is not None]
    return [
        Package(name, extra, installed_version(name))
        for name, extra in pairs
        if extra not in LEFT_OUT and name != "samclip"
    ]


def installed_version(name: str) -> str | None:
    """Return the version of a package, or of one that stands in for it; None when absent."""
    for candidate in (name, *STAND_INS.get(name, ())):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def remedy(package: Package) -> str:
    """Say how to get a package that is not there."""
    return f"pip install {'samclip' if package.extra is None else _quoted(package.extra)}"


def _quoted(extra: str) -> str:
    return f"'samclip[{extra}]'"
