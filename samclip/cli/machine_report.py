"""The report of `samclip doctor`: plain values, ready for JSON."""

from __future__ import annotations

import platform
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samclip.cli.bundle import auto_record
from samclip.cli.exits import describe
from samclip.cli.findings import (
    judge_backends,
    judge_cache,
    judge_cpu,
    judge_jetson,
    list_packages,
    remedy,
)
from samclip.disk.partial_files import CACHE_DIR_VARIABLE, cache_dir
from samclip.engines.base import Probe
from samclip.engines.machine.device import PythonHere, describe_device, describe_python
from samclip.engines.machine.jetson import Jetson, find_jetson
from samclip.engines.machine.jetson_power import Power, PowerMode
from samclip.engines.registry import probes
from samclip.errors import BundleError, BundleNotFoundError
from samclip.runtime.assets import DEFAULT_BUNDLE, is_packaged
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home, find_bundle, list_bundles
from samclip.version import __version__


def examine() -> dict[str, Any]:
    """Look at this machine without changing it; raises nothing for what does not work."""
    backends, cache, jetson = probes(), examine_folder(cache_dir()), find_jetson()
    python = describe_python()
    found = judge_jetson(jetson, python) if jetson is not None else []
    found += [*judge_cache(cache), *judge_backends(backends), *judge_cpu(backends)]
    return {
        "samclip": __version__,
        "python": platform.python_version(),
        "device": examine_device(),
        "jetson": None if jetson is None else examine_jetson(jetson, python),
        "backends": [examine_backend(name, probe) for name, probe in backends.items()],
        "packages": examine_packages(),
        "cache": cache,
        "bundle_home": str(bundle_home()),
        "default_bundle": examine_default(),
        "bundles": [examine_bundle(name, path) for name, path in list_bundles().items()],
        "findings": [asdict(finding) for finding in found],
    }


def examine_device() -> dict[str, Any]:
    """Describe the machine; packages are left to `examine_packages`."""
    found = describe_device().to_dict()
    return {key: value for key, value in found.items() if key not in {"packages", "python"}}


def examine_jetson(jetson: Jetson, python: PythonHere) -> dict[str, Any]:
    """Describe a Jetson; frequencies are left out, what they mean is not."""
    return {
        "model": jetson.model,
        "l4t": jetson.jetpack.l4t,
        "jetpack": jetson.jetpack.version,
        "tensorrt": {
            "library": jetson.tensorrt.library,
            "python_module": jetson.tensorrt.python,
            "importable": python.tensorrt,
        },
        "power": examine_power(jetson.power),
        "memory": asdict(jetson.memory),
        "container": jetson.container,
        "desktop": jetson.desktop,
        "gpu_allowed": jetson.gpu_allowed,
    }


def examine_power(power: Power) -> dict[str, Any]:
    """Describe power mode and clocks; null for what the files do not tell."""

    def name(mode: PowerMode | None) -> dict[str, Any] | None:
        return None if mode is None else {"number": mode.number, "name": mode.name}

    return {
        "mode": name(power.mode),
        "fastest": name(power.fastest),
        "clocks_pinned": power.pinned,
    }


def examine_backend(name: str, probe: Probe) -> dict[str, Any]:
    """Say of a backend whether it works here, and if not, what to do."""
    return {
        "name": name,
        "available": probe.available,
        "detail": probe.detail,
        "remedy": probe.remedy,
    }


def examine_packages() -> list[dict[str, Any]]:
    """List the packages with their versions, and how to get those that are not there."""
    return [
        {
            "name": package.name,
            "extra": package.extra,
            "version": package.version,
            "remedy": "" if package.version else remedy(package),
        }
        for package in list_packages()
    ]


def examine_folder(folder: Path) -> dict[str, Any]:
    """Try to write a file in `folder`, or in the nearest folder above it that exists.

    `free` is the room on its disk in bytes, None when that cannot be told.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if _is_there(place))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            writable, advice = True, ""
    except OSError as error:
        writable = False
        advice = f"{nearest}: {error.strerror}. Set {CACHE_DIR_VARIABLE} to a folder of your own."
    return {
        "path": str(folder),
        "writable": writable,
        "free": free_space(nearest),
        "remedy": advice,
    }


def free_space(folder: Path) -> int | None:
    """Give the bytes that may still be written to the disk of `folder`, None when unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name too long, or a folder that may not be looked into
        return False


def examine_default() -> dict[str, Any]:
    """Look which bundle is used when none is named, and on what; if there is none, what to do."""
    try:
        path = find_bundle()
        auto = auto_record(Bundle.open(path))
    except BundleNotFoundError as error:
        return {"name": DEFAULT_BUNDLE, "path": None, "auto": None, "remedy": describe(error)}
    except BundleError as error:
        return {"name": DEFAULT_BUNDLE, "path": str(path), "auto": None, "remedy": describe(error)}
    return {"name": DEFAULT_BUNDLE, "path": str(path), "auto": auto, "remedy": ""}


def examine_bundle(name: str, path: Path) -> dict[str, Any]:
    """Open a bundle that is found by name; `error` says why one cannot be used."""
    place = {
        "name": name,
        "path": str(path),
        "packaged": is_packaged(path),
    }
    try:
        manifest = Bundle.open(path).manifest
    except BundleError as error:
        return {**place, "error": describe(error)}
    head = manifest.head
    return {
        **place,
        "model_type": manifest.model_type,
        "image_size": manifest.preprocessing.image_size,
        "trained_head": None if head is None else head.trained,
        "error": None,
    }
