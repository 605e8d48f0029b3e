"""`samclip doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from samclip.runtime.cli import options
from samclip.runtime.cli.consoles import out, say, write_json
from samclip.runtime.cli.failures import reported
from samclip.runtime.cli.tables import format_bytes, make_table

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
        from samclip.runtime.cli.checkup import examine

        report = examine()
        if as_json:
            write_json(report, indent=2)
        else:
            print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """Show the report to a person."""
    say(out, f"samclip {report['samclip']}, Python {report['python']}", style="bold")
    show_device(report["device"])
    out.print(show_backends(report["backends"]))
    if report["packages"]:
        out.print(show_packages(report["packages"]))
    cache = report["cache"]
    state = "writable" if cache["writable"] else f"NOT WRITABLE: {cache['remedy']}"
    say(out, f"cache: {cache['path']} ({state})")
    say(out, f"bundles: {report['bundle_home']}, and those that came with samclip")
    if report["bundles"]:
        out.print(show_bundles(report["bundles"]))
    default = report["default_bundle"]
    say(out, f"default bundle: {default['path'] or default['remedy']}")


def show_device(device: dict[str, Any]) -> None:
    """Say what machine this is, a line per part."""
    cores = f"{device['usable_cores']} cores, {device['logical_cores']} threads"
    say(out, f"cpu: {device['cpu']} ({device['machine']}, {cores})")
    say(out, f"memory: {format_bytes(device['memory'])}")
    say(out, f"system: {device['system']}")
    if device["jetson"]:
        say(out, f"jetson: {device['jetson']}")
    for gpu in device["gpus"]:
        memory = "" if gpu["memory"] is None else f", {format_bytes(gpu['memory'])}"
        say(out, f"gpu: {gpu['name']}{memory}, driver {gpu['driver'] or 'unknown'}")


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
