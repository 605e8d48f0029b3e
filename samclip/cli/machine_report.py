"""The report of `samclip doctor`: what this machine has, as plain values ready for JSON."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from samclip.cli.advice import remedy_to_type
from samclip.cli.exits import describe
from samclip.cli.findings import judge_backends, judge_cache, judge_cpu, judge_jetson, judge_plans
from samclip.disk.cache_folder import CACHE_DIR_VARIABLE, cache_dir, make_private_folder
from samclip.engines.base import Probe
from samclip.engines.machine.device import PythonHere, describe_device, describe_python
from samclip.engines.machine.jetson import Jetson, find_jetson
from samclip.engines.machine.jetson_power import PowerMode
from samclip.engines.registry import probes
from samclip.errors import BackendUnavailableError, BundleNotFoundError, InputError, SamclipError
from samclip.runtime.assets import DEFAULT_BUNDLE, is_packaged
from samclip.runtime.backend_choice import choose_for
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home, find_bundle, list_bundles
from samclip.version import __version__

# Distributions that bring the same module: one of them is enough.
STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless"),
}
# The packages of these extras are left out: backends report on their own packages.
BACKEND_EXTRAS = frozenset({"gpu", "tensorrt", "openvino"})
DEVELOPMENT_EXTRAS = frozenset({"dev", "docs", "fuzz"})
_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+).*?(?:extra == ['\"](?P<extra>[\w-]+)['\"])?$")
# A requirement that newer versions of Python do without.
_ONLY_BEFORE = re.compile(r"python_version < ['\"](\d+)\.(\d+)['\"]")


def examine() -> dict[str, Any]:
    """Examine this machine without changing it; what does not work is reported, never raised."""
    backends = probes()
    cache = examine_cache()
    jetson = find_jetson()
    python = describe_python()
    found = judge_jetson(jetson, python) if jetson is not None else []
    found += [*judge_cache(cache), *judge_backends(backends), *judge_cpu(backends), *judge_plans()]
    device = describe_device().to_dict()
    return {
        "samclip": __version__,
        "python": platform.python_version(),
        "device": {key: device[key] for key in device if key not in {"packages", "python"}},
        "jetson": None if jetson is None else examine_jetson(jetson, python),
        "backends": [examine_backend(name, probe) for name, probe in backends.items()],
        "packages": examine_packages(),
        "cache": cache,
        "bundle_home": find_bundle_home(),
        "default_bundle": examine_default_bundle(),
        "bundles": [examine_bundle(name, path) for name, path in list_bundles().items()],
        "findings": [asdict(finding) for finding in found],
    }


def examine_jetson(jetson: Jetson, python: PythonHere) -> dict[str, Any]:
    """Describe a Jetson, without the frequencies behind its power modes.

    Null stands for what its files do not say.
    """

    def name(mode: PowerMode | None) -> dict[str, Any] | None:
        return None if mode is None else {"number": mode.number, "name": mode.name}

    return {
        "model": jetson.model,
        "l4t": jetson.jetpack.l4t,
        "jetpack": jetson.jetpack.version,
        "tensorrt": {
            "library": jetson.tensorrt.library,
            "python_module": jetson.tensorrt.python,
            "importable": python.tensorrt,
        },
        "power": {
            "mode": name(jetson.power.mode),
            "fastest": name(jetson.power.fastest),
            "clocks_pinned": jetson.power.pinned,
        },
        "memory": asdict(jetson.memory),
        "container": jetson.container,
        "desktop": jetson.desktop,
        "gpu_allowed": jetson.gpu_allowed,
    }


def examine_backend(name: str, probe: Probe) -> dict[str, Any]:
    """Describe whether a backend works here, and what to do where it does not."""
    return {
        "name": name,
        "available": probe.available,
        "detail": probe.detail,
        "remedy": remedy_to_type(probe.remedy, probe.steps),
    }


def examine_packages() -> list[dict[str, Any]]:
    """List the packages that samclip and its extras require, and how to get the missing ones.

    `extra` is None for a package that is always needed, `version` for one that is not installed.
    Nothing is imported: versions come from the metadata of the installed packages. The list is
    empty when samclip itself is not installed.
    """
    try:
        requirements = metadata.requires("samclip") or []
    except metadata.PackageNotFoundError:  # run from a source folder
        return []
    found = []
    for line in requirements:
        requirement, before = _REQUIREMENT.match(line), _ONLY_BEFORE.search(line)
        if requirement is None or requirement["name"] == "samclip":
            continue
        if before and sys.version_info[:2] >= (int(before[1]), int(before[2])):
            continue
        name, extra = requirement["name"], requirement["extra"]
        if extra in BACKEND_EXTRAS | DEVELOPMENT_EXTRAS:
            continue
        version = installed_version(name)
        wanted = "samclip" if extra is None else f"'samclip[{extra}]'"
        remedy = "" if version else f"pip install {wanted}"
        found.append({"name": name, "extra": extra, "version": version, "remedy": remedy})
    return found


def installed_version(name: str) -> str | None:
    """Return the version of a package or of a stand-in for it; None when neither is installed."""
    for candidate in (name, *STAND_INS.get(name, ())):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def find_bundle_home() -> str | None:
    """Return the folder of the user's bundles; None where this user has no home folder."""
    try:
        return str(bundle_home())
    except InputError:
        return None


def examine_cache() -> dict[str, Any]:
    """Examine the folder of caches; its `path` is None where this user has no home folder."""
    try:
        return examine_folder(cache_dir())
    except OSError as error:
        remedy = f"{error.strerror}. Set {CACHE_DIR_VARIABLE} to a folder that you can write to."
        return {"path": None, "writable": False, "free": None, "remedy": remedy}


def examine_folder(folder: Path) -> dict[str, Any]:
    """Try to write a file to `folder`, or to the nearest folder above it that exists.

    `free` is the space on its disk in bytes, None when unknown. Raises OSError where a relative
    path means nothing, because the working folder was removed.
    """

    def exists(place: Path) -> bool:
        try:
            return place.exists()
        except OSError:  # its name is too long, or the folder around it may not be read
            return False

    nearest = next(place for place in (folder, *folder.absolute().parents) if exists(place))
    advice = ""
    try:
        if nearest == folder:
            make_private_folder(folder)  # it is there: this only checks whose it is
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        advice = (
            f"{nearest}: {error.strerror}. Set {CACHE_DIR_VARIABLE} to a folder that you can "
            "write to."
        )
    return {
        "path": str(folder),
        "writable": not advice,
        "free": free_space(nearest),
        "remedy": advice,
    }


def free_space(folder: Path) -> int | None:
    """Return the free space on the disk of `folder` in bytes, None when unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def examine_default_bundle() -> dict[str, Any]:
    """Find the bundle that is used when none is named, and the backend that `auto` takes for it.

    `remedy` says what to do when there is none, or when it cannot be used.
    """
    report = {"name": DEFAULT_BUNDLE, "path": None, "auto": None, "remedy": ""}
    try:
        path = find_bundle()
        auto = examine_auto(Bundle.open(path))
    except BundleNotFoundError as error:
        return {**report, "remedy": describe(error)}
    except SamclipError as error:  # also of the key that bundles are to be signed with
        return {**report, "path": str(path), "remedy": describe(error)}
    return {**report, "path": str(path), "auto": auto}


def examine_auto(bundle: Bundle) -> dict[str, Any]:
    """Return the backend that `auto` takes for a bundle on this machine, and those passed over.

    `backend` is None when none works; `error` then says why. `measured`: the ms that an image took
    when the choice was measured here, with `precision`; None where it is made by rule.
    `engine_precision`: what its engines compute in where graphs are in FP32.
    """
    none: dict[str, Any] = {"precision": None, "engine_precision": None, "measured": None}
    try:
        choice = choose_for(bundle)
    except BackendUnavailableError as error:
        return {"backend": None, **none, "passed_over": [], "error": describe(error)}
    passed = [
        {"name": one.name, "reason": one.reason, "remedy": remedy_to_type(one.remedy, one.steps)}
        for one in choice.passed_over
    ]
    return {
        "backend": choice.backend.name,
        "precision": choice.precision,
        "engine_precision": choice.engine_precision,
        "measured": choice.measured,
        "passed_over": passed,
        "error": None,
    }


def examine_bundle(name: str, path: Path) -> dict[str, Any]:
    """Open a bundle of the bundle folders; `error` says why it cannot be used."""
    place = {"name": name, "path": str(path), "packaged": is_packaged(path)}
    try:
        manifest = Bundle.open(path).manifest
    except SamclipError as error:
        return {**place, "error": describe(error)}
    head = manifest.head
    return {
        **place,
        "model_type": manifest.model_type,
        "image_size": manifest.preprocessing.image_size,
        "trained_head": None if head is None else head.trained,
        "error": None,
    }
