"""What else differs between two reports: machine, versions, threads, settings, photos."""

from __future__ import annotations

from collections.abc import Iterator

from samclip.benchmarks.machine import Machine
from samclip.benchmarks.report import Report

HARDWARE = ("cpu", "logical_cores", "usable_cores", "memory", "machine", "jetson", "gpus")
OTHER_MACHINE = (
    "THE REPORTS ARE OF DIFFERENT MACHINES ({what}). The ratios below compare machines, not what "
    "was changed on one."
)


def other_machine(before: Report, after: Report) -> str | None:
    """Say loudly that the hardware differs, and in what; None where it does not."""
    found = [
        f"{name}: {getattr(before.machine, name)} and {getattr(after.machine, name)}"
        for name in HARDWARE
        if getattr(before.machine, name) != getattr(after.machine, name)
    ]
    return OTHER_MACHINE.format(what="; ".join(found)) if found else None


def describe_differences(before: Report, after: Report) -> Iterator[str]:
    """Say what else differs, a line each."""
    yield from _software(before.machine, after.machine)
    pairs = (
        ("samclip", before.samclip, after.samclip),
        ("threads per graph", before.threads.engine, after.threads.engine),
        ("variables", before.threads.environment, after.threads.environment),
        ("photos", _photos(before), _photos(after)),
        ("power mode", _mode(before), _mode(after)),
        ("load of the machine, 1 minute", _load(before), _load(after)),
    )
    for name, first, second in pairs:
        if first != second:
            yield f"{name}: {first} and {second}"
    yield from _settings(before, after)


def _software(before: Machine, after: Machine) -> Iterator[str]:
    for name in ("system", "python"):
        first, second = getattr(before, name), getattr(after, name)
        if first != second:
            yield f"{name}: {first} and {second}"
    for package in sorted({*before.packages, *after.packages}):
        versions = [m.packages.get(package, "not installed") for m in (before, after)]
        if versions[0] != versions[1]:
            yield f"{package}: {versions[0]} and {versions[1]}"


def _settings(before: Report, after: Report) -> Iterator[str]:
    firsts = {settings.model: settings for settings in before.settings}
    for second in after.settings:
        first = firsts.get(second.model)
        if first is None:
            continue
        for field in first.__struct_fields__:
            values = getattr(first, field), getattr(second, field)
            if values[0] != values[1]:
                yield f"{second.model}, {field}: {values[0]} and {values[1]}"


def _photos(report: Report) -> str:
    return f"{report.data.photos} of {report.data.path}"


def _mode(report: Report) -> str | None:
    return None if report.conditions is None else report.conditions.power_mode


def _load(report: Report) -> float | None:
    return None if report.threads.load is None else round(report.threads.load[0], 1)
