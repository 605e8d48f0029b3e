"""What `samclip doctor` looks at; plain values, ready for JSON."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

from samclip.engines.cache_folder import CACHE_DIR_VARIABLE, cache_dir
from samclip.engines.device import describe_device
from samclip.engines.registry import probes
from samclip.errors import BundleError, BundleNotFoundError
from samclip.runtime.assets import DEFAULT_BUNDLE, is_packaged
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import bundle_home, find_bundle, list_bundles
from samclip.runtime.cli.packages import list_packages, remedy
from samclip.version import __version__


def examine() -> dict[str, Any]:
    """Look at this machine without changing it; raises nothing for what does not work."""
    return {
        "samclip": __version__,
        "python": platform.python_version(),
        "device": examine_device(),
        "backends": examine_backends(),
        "packages": examine_packages(),
        "cache": examine_folder(cache_dir()),
        "bundle_home": str(bundle_home()),
        "default_bundle": examine_default(),
        "bundles": [examine_bundle(name, path) for name, path in list_bundles().items()],
    }


def examine_device() -> dict[str, Any]:
    """Describe the machine; packages are left to `examine_packages`."""
    found = describe_device().to_dict()
    return {key: value for key, value in found.items() if key not in {"packages", "python"}}


def examine_backends() -> list[dict[str, Any]]:
    """Probe every backend: whether it works here, and if not, what to do."""
    return [
        {
            "name": name,
            "available": probe.available,
            "detail": probe.detail,
            "remedy": probe.remedy,
        }
        for name, probe in probes().items()
    ]


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
    """Try to write a file in `folder`, or in the nearest folder above it that exists."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            writable, advice = True, ""
    except OSError as error:
        writable = False
        advice = f"{nearest}: {error.strerror}. Set {CACHE_DIR_VARIABLE} to a folder of your own."
    return {"path": str(folder), "writable": writable, "remedy": advice}


def examine_default() -> dict[str, Any]:
    """Look which bundle is used when none is named, and if there is none, what to do."""
    try:
        return {"name": DEFAULT_BUNDLE, "path": str(find_bundle()), "remedy": ""}
    except BundleNotFoundError as error:
        return {"name": DEFAULT_BUNDLE, "path": None, "remedy": str(error)}


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
        return {**place, "error": str(error)}
    head = manifest.clip_head
    return {
        **place,
        "model_type": manifest.model_type,
        "image_size": manifest.preprocessing.image_size,
        "trained_head": None if head is None else head.trained,
        "error": None,
    }
