"""The base of all records of a report.

The machine that a benchmark ran on: hardware, versions, threads.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

import cv2
import msgspec

from samclip.engines.machine.device import describe_device
from samclip.engines.machine.host import usable_cores


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records of a report: frozen, unknown fields refused."""


PACKAGES = ("pycocotools", "torch", "tokenizers")  # beside those of `describe_device`
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hardware and versions; `memory` in bytes, 0 if unknown; cores as in `DeviceInfo`."""

    cpu: str
    logical_cores: int
    usable_cores: int
    memory: int
    system: str
    machine: str
    python: str
    jetson: str | None
    gpus: tuple[str, ...]
    packages: dict[str, str]


class Threads(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many threads there were: `asked` by option, `engine` per graph on the CPU.

    `torch` is None where torch was not in use; `environment`: variables that libraries read.
    `load`: how many processes wanted a core at the end of the run, averaged over 1, 5 and 15
    minutes, this one included; None where the system does not tell.
    """

    asked: int | None
    engine: int
    opencv: int
    torch: int | None
    environment: dict[str, str]
    load: tuple[float, float, float] | None


def describe_machine() -> Machine:
    """Look at this machine, by `describe_device`."""
    device = describe_device()
    return Machine(
        cpu=device.cpu,
        logical_cores=device.logical_cores,
        usable_cores=device.usable_cores,
        memory=device.memory,
        system=device.system,
        machine=device.machine,
        python=device.python,
        jetson=device.jetson,
        gpus=tuple(gpu.name for gpu in device.gpus),
        packages={**dict(device.packages), **_packages()},
    )


def describe_threads(asked: int | None) -> Threads:
    """Count the threads of this process's libraries; `asked`: the option's value."""
    torch = sys.modules.get("torch")
    return Threads(
        asked=asked,
        engine=usable_cores() if asked is None else min(asked, os.cpu_count() or 1),
        opencv=cv2.getNumThreads(),
        torch=None if torch is None else torch.get_num_threads(),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        load=os.getloadavg() if hasattr(os, "getloadavg") else None,
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
