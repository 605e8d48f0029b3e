"""The Python that runs samclip: its version, its environment, and the TensorRT that it can import.

TensorRT is looked up and never imported: without a GPU that works its import may crash the process.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from samclip.engines.machine.files import MachineFiles

TENSORRT = "tensorrt"
PIP_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")


@dataclass(frozen=True)
class PythonHere:
    """A Python: `version` as "3.10", the folder `prefix` of its environment.

    `virtual`: it is a virtual environment; `sees_system`: which shows the system's packages.
    `tensorrt` is the version of the TensorRT that can be imported, "" when that is not known, None
    when there is none; `location` is the folder that it lies in.
    """

    version: str
    prefix: str
    virtual: bool
    sees_system: bool
    tensorrt: str | None
    location: str = ""


def describe_python() -> PythonHere:
    """Describe the Python that runs this."""
    virtual = sys.prefix != sys.base_prefix
    location = _location()
    return PythonHere(
        version=f"{sys.version_info.major}.{sys.version_info.minor}",
        prefix=sys.prefix,
        virtual=virtual,
        sees_system=not virtual or _sees_system(MachineFiles(Path(sys.prefix))),
        tensorrt=None if location is None else _tensorrt_version(),
        location=location or "",
    )


def _sees_system(environment: MachineFiles) -> bool:
    fields = environment.fields("/pyvenv.cfg", "=")
    return fields.get("include-system-site-packages", "").lower() == "true"


def _location() -> str | None:
    """Give the folder of TensorRT's module, None when there is none."""
    try:
        found = importlib.util.find_spec(TENSORRT)
    except (ImportError, ValueError):  # a stand-in without a specification
        return None
    if found is None:
        return None
    return str(Path(found.origin).parents[1]) if found.origin else ""


def _tensorrt_version() -> str:
    for name in PIP_PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
