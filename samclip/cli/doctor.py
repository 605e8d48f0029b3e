"""`samclip doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.exits import report_errors
from samclip.cli.tables import format_bytes, text_table
from samclip.cli.terminal import out, say, write_json

EXAMPLES = """
**Examples:**

- `samclip doctor`

- `samclip doctor --json`
"""

HEADS = {True: "trained head", False: "UNTRAINED head: names mean nothing", None: "no head"}
CLOCKS = {True: "pinned", False: "following the load", None: "unknown"}

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
    """Print the report of `machine_report.examine` for people."""
    say(out, f"samclip {report['samclip']}, Python {report['python']}", style="bold")
    print_device(report["device"])
    if report["jetson"] is not None:
        print_jetson(report["jetson"])
    print_table(("backend", "works", "detail"), map(backend_row, report["backends"]))
    print_table(("package", "version", "for"), map(package_row, report["packages"]))
    cache = report["cache"]
    state = "writable" if cache["writable"] else f"NOT WRITABLE: {cache['remedy']}"
    room = "" if cache["free"] is None else f", {format_bytes(cache['free'])} free"
    say(out, f"cache: {cache['path'] or 'none'} ({state}{room})")
    home = report["bundle_home"]
    say(out, f"bundles: {f'{home}, and ' if home else ''}those that came with samclip")
    print_table(("bundle", "from", "model", "names"), map(bundle_row, report["bundles"]))
    default = report["default_bundle"]
    say(out, f"default bundle: {default['path'] or default['remedy']}")
    if default["auto"] is not None:
        print_auto(default["auto"])
    print_table(("to do", "about", "detail"), map(finding_row, report["findings"]))


def print_device(device: dict[str, Any]) -> None:
    """Print the parts of the machine, one per line."""
    cores = f"{device['usable_cores']} cores, {device['logical_cores']} threads"
    say(out, f"cpu: {device['cpu']} ({device['machine']}, {cores})")
    say(out, f"memory: {format_bytes(device['memory'])}")
    say(out, f"system: {device['system']}")
    for gpu in device["gpus"]:
        memory = "" if gpu["memory"] is None else f", {format_bytes(gpu['memory'])}"
        say(out, f"gpu: {gpu['name']}{memory}, driver {gpu['driver'] or 'unknown'}")


def print_jetson(jetson: dict[str, Any]) -> None:
    """Print which Jetson this is and how it is set up, one part per line."""
    model = jetson["model"] or "of unknown model"
    release = f"JetPack {jetson['jetpack'] or 'unknown'}"
    if jetson["l4t"]:
        release += f" (L4T {jetson['l4t']})"
    say(out, f"jetson: {model}, {release}{', in a container' if jetson['container'] else ''}")

    tensorrt = jetson["tensorrt"]
    seen = tensorrt["importable"]
    python = "not seen by this Python" if seen is None else f"this Python sees {seen or 'one'}"
    say(out, f"tensorrt: {tensorrt['library'] or 'not installed on the system'}; {python}")

    power = jetson["power"]
    mode = f"{power['mode']['name']} ({power['mode']['number']})" if power["mode"] else "unknown"
    say(out, f"power mode: {mode}; clocks: {CLOCKS[power['clocks_pinned']]}")

    memory = jetson["memory"]
    swap = f"{format_bytes(memory['swap'])} ({format_bytes(memory['zram'])} of it zram)"
    free = format_bytes(memory["available"])
    say(out, f"memory, shared with the GPU: {free} free; swap: {swap}")


def print_auto(auto: dict[str, Any]) -> None:
    """Print the backend that `auto` takes, and why not each faster one, one per line."""
    if auto["backend"] is None:
        say(out, f"backend auto: none. {auto['error']}")
        return
    how = "by rule; `samclip-bench choose` measures it"
    if auto["measured"] is not None:
        from samclip.engines.base import FULL  # brings in numpy

        computed = auto["engine_precision"]
        engines = "" if computed == FULL else f", engines in {computed}"
        took = f"as measured here: {auto['measured']:.0f} ms an image"
        how = f"in {auto['precision']}{engines}, {took}"
    say(out, f"backend auto: {auto['backend']}, {how}")
    for passed in auto["passed_over"]:
        advice = f" To do: {passed['remedy'].rstrip('. ')}." if passed["remedy"] else ""
        say(out, f"  not {passed['name']}: {passed['reason'].rstrip('. ')}.{advice}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, or nothing when there are no rows."""
    table = text_table(columns, rows)
    if table.row_count:
        out.print(table)


def backend_row(backend: dict[str, Any]) -> tuple[str, ...]:
    """Return whether a backend works, and what to do otherwise."""
    works = "yes" if backend["available"] else "no"
    return backend["name"], works, add_remedy(backend["detail"], backend["remedy"])


def package_row(package: dict[str, Any]) -> tuple[str, ...]:
    """Return the version of a package, or how to get it."""
    version = package["version"] or f"not installed: {package['remedy']}"
    return package["name"], version, package["extra"] or "samclip"


def bundle_row(bundle: dict[str, Any]) -> tuple[str, ...]:
    """Return what a bundle holds, or why it cannot be used."""
    origin = "samclip" if bundle["packaged"] else "you"
    if bundle["error"]:
        return bundle["name"], origin, "cannot be used", bundle["error"]
    model = f"{bundle['model_type']} at {bundle['image_size']} px"
    return bundle["name"], origin, model, HEADS[bundle["trained_head"]]


def finding_row(finding: dict[str, Any]) -> tuple[str, ...]:
    """Return a finding and its remedy."""
    return finding["level"], finding["about"], add_remedy(finding["detail"], finding["remedy"])


def add_remedy(detail: str, remedy: str) -> str:
    """Return `detail`, with the remedy on a second line if there is one."""
    return f"{detail}\n-> {remedy}" if remedy else detail
