"""`samclip doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from samclip.cli import options
from samclip.cli.bundle import show_auto
from samclip.cli.exits import report_errors
from samclip.cli.tables import format_bytes, make_table
from samclip.cli.terminal import out, say, write_json

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
    with report_errors(debug):
        from samclip.cli.machine_report import examine

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
