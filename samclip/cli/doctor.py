"""`samclip doctor`: what works on this machine, and what to do about the rest.

What `samclip doctor` looks at; plain values, ready for JSON.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from samclip.cli import options
from samclip.cli.bundle import auto_record, show_auto
from samclip.cli.exits import reported
from samclip.cli.findings import (
    judge_backends,
    judge_cache,
    judge_cpu,
    judge_jetson,
    list_packages,
    remedy,
)
from samclip.cli.tables import format_bytes, make_table
from samclip.cli.terminal import out, say, write_json
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

EXAMPLES = """
**Examples:**

- `samclip doctor`

- `samclip doctor --json`
"""

AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def doctor(as_json: AsJson = False, debug: options.Debug = False) -> None:
    """Show which backends work on this machine, versions, device, cache folder and bundles.

    For whatever does not work, say what to install or do. Changes nothing, and ends with exit
    code 0 whatever it finds: it reports, it does not judge.
    """
    with reported(debug):
        report = examine()
        if as_json:
            write_json(report, indent=2)
        else:
            print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """Show the report to a person."""
    say(out, f"samclip {report['samclip']}, Python {report['python']}", style="bold")
    show_device(report["device"])
    if report["jetson"] is not None:
        show_jetson(report["jetson"])
    out.print(show_backends(report["backends"]))
    if report["packages"]:
        out.print(show_packages(report["packages"]))
    cache = report["cache"]
    state = "writable" if cache["writable"] else f"NOT WRITABLE: {cache['remedy']}"
    room = "" if cache["free"] is None else f", {format_bytes(cache['free'])} free"
    say(out, f"cache: {cache['path']} ({state}{room})")
    say(out, f"bundles: {report['bundle_home']}, and those that came with samclip")
    if report["bundles"]:
        out.print(show_bundles(report["bundles"]))
    default = report["default_bundle"]
    say(out, f"default bundle: {default['path'] or default['remedy']}")
    if default["auto"] is not None:
        show_auto(default["auto"])
    if report["findings"]:
        out.print(show_findings(report["findings"]))


def show_device(device: dict[str, Any]) -> None:
    """Say what machine this is, a line per part."""
    cores = f"{device['usable_cores']} cores, {device['logical_cores']} threads"
    say(out, f"cpu: {device['cpu']} ({device['machine']}, {cores})")
    say(out, f"memory: {format_bytes(device['memory'])}")
    say(out, f"system: {device['system']}")
    for gpu in device["gpus"]:
        memory = "" if gpu["memory"] is None else f", {format_bytes(gpu['memory'])}"
        say(out, f"gpu: {gpu['name']}{memory}, driver {gpu['driver'] or 'unknown'}")


def show_jetson(jetson: dict[str, Any]) -> None:
    """Say what Jetson this is and how it is set up, a line per part."""
    release = describe_release(jetson["jetpack"], jetson["l4t"])
    place = ", in a container" if jetson["container"] else ""
    say(out, f"jetson: {jetson['model'] or 'of unknown model'}, {release}{place}")
    tensorrt = jetson["tensorrt"]
    seen = tensorrt["importable"]
    python = "not seen by this Python" if seen is None else f"this Python sees {seen or 'one'}"
    say(out, f"tensorrt: {tensorrt['library'] or 'not installed on the system'}; {python}")
    power = jetson["power"]
    mode, pinned = power["mode"], power["clocks_pinned"]
    name = f"{mode['name']} ({mode['number']})" if mode else "unknown"
    clocks = {True: "pinned", False: "following the load", None: "unknown"}[pinned]
    say(out, f"power mode: {name}; clocks: {clocks}")
    memory = jetson["memory"]
    swap = f"{format_bytes(memory['swap'])} ({format_bytes(memory['zram'])} of it zram)"
    free = format_bytes(memory["available"])
    say(out, f"memory, shared with the GPU: {free} free; swap: {swap}")


def describe_release(jetpack: str | None, l4t: str | None) -> str:
    """Name a release in one line, as "JetPack 6.2 (L4T 36.4.3)"."""
    name = f"JetPack {jetpack or 'unknown'}"
    return f"{name} (L4T {l4t})" if l4t else name


def show_findings(findings: list[dict[str, Any]]) -> Table:
    """List what to do, in the order found."""
    table = make_table("to do", "about", "detail", left=("to do", "about", "detail"))
    for finding in findings:
        text = f"{finding['detail']}\n-> {finding['remedy']}"
        table.add_row(finding["level"], escape(finding["about"]), escape(text))
    return table


def show_backends(backends: list[dict[str, Any]]) -> Table:
    """List backends: whether they work, or what to do."""
    table = make_table("backend", "works", "detail", left=("backend", "works", "detail"))
    for backend in backends:
        advice = f"\n-> {backend['remedy']}" if backend["remedy"] else ""
        works = "yes" if backend["available"] else "no"
        table.add_row(backend["name"], works, escape(backend["detail"] + advice))
    return table


def show_packages(packages: list[dict[str, Any]]) -> Table:
    """List packages with versions, or how to get them."""
    table = make_table("package", "version", "for", left=("package", "version", "for"))
    for package in packages:
        version = package["version"] or f"not installed: {package['remedy']}"
        table.add_row(package["name"], escape(version), package["extra"] or "samclip")
    return table


def show_bundles(bundles: list[dict[str, Any]]) -> Table:
    """List the bundles that are found by name, and why one cannot be used."""
    columns = ("bundle", "from", "model", "names")
    table = make_table(*columns, left=columns)
    states = {True: "trained head", False: "UNTRAINED head: names mean nothing", None: "no head"}
    for bundle in bundles:
        place = (escape(bundle["name"]), "samclip" if bundle["packaged"] else "you")
        if bundle["error"]:
            table.add_row(*place, "cannot be used", escape(bundle["error"]))
        else:
            model = f"{bundle['model_type']} at {bundle['image_size']} px"
            table.add_row(*place, model, states[bundle["trained_head"]])
    return table


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
        return {"name": DEFAULT_BUNDLE, "path": None, "auto": None, "remedy": str(error)}
    except BundleError as error:
        return {"name": DEFAULT_BUNDLE, "path": str(path), "auto": None, "remedy": str(error)}
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
        return {**place, "error": str(error)}
    head = manifest.head
    return {
        **place,
        "model_type": manifest.model_type,
        "image_size": manifest.preprocessing.image_size,
        "trained_head": None if head is None else head.trained,
        "error": None,
    }
