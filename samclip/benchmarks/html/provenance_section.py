"""What was measured, on which machine, with which versions and command: enough to do it again."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import NONE, Child, digits, el, table
from samclip.benchmarks.html.reports import NamedReport, NamedReports
from samclip.benchmarks.records import Report

GIB = 2**30


def provenance_section(sources: NamedReports) -> Iterator[Element]:
    """Give machine, versions, settings, command and definitions of each report."""
    yield el("h2", "How it was measured", id="how")
    for source in sources.all:
        yield from _one(source)


def _one(source: NamedReport) -> Iterator[Element]:
    report = source.report
    yield el("h3", f"{report.benchmark} ({source.name})")
    yield el("pre", el("code", report.command))
    yield _pairs(_facts(report))
    yield table(*_subjects(report), left=5)
    if report.settings:
        yield table(*_settings(report), left=3)
    if report.protocol:
        yield el("ul", *(el("li", line) for line in report.protocol))


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    machine, threads, data = report.machine, report.threads, report.data
    yield "date", f"{report.date}, {digits(report.seconds)} s"
    yield "samclip", report.samclip
    yield "machine", machine.jetson or f"{machine.cpu}, {machine.machine}"
    yield "cores", f"{machine.usable_cores} usable of {machine.logical_cores}"
    yield "memory", f"{digits(machine.memory / GIB)} GiB" if machine.memory else "unknown"
    yield "GPU", ", ".join(machine.gpus) or "none"
    yield "system", f"{machine.system}, Python {machine.python}"
    yield "packages", ", ".join(f"{k} {v}" for k, v in sorted(machine.packages.items()))
    asked = "by default" if threads.asked is None else f"asked for {threads.asked}"
    torch = "" if threads.torch is None else f", torch {threads.torch}"
    yield "threads", f"engine {threads.engine} ({asked}), OpenCV {threads.opencv}{torch}"
    yield from threads.environment.items()
    if threads.load is not None:
        load = ", ".join(f"{value:.1f}" for value in threads.load)
        yield "load at the end", f"{load} (1, 5, 15 minutes)"
    yield from _conditions(report)
    yield "data", f"{data.path} ({data.layout}), {data.photos} of {data.photos_there} photos"
    for reason, number in data.left_out.items():
        yield "left out", f"{number:,} {reason}"


def _conditions(report: Report) -> Iterator[tuple[str, str]]:
    found = report.conditions
    if found is None:
        return
    yield "power mode", found.power_mode or "not told by this machine"
    clocks = [f"{c.name} {c.lowest / 1e6:,.0f}-{c.highest / 1e6:,.0f} MHz" for c in found.clocks]
    yield "clocks", ", ".join(clocks) or "not told by this machine"
    pinned = {True: "yes", False: "no: they can move", None: "not known"}[found.clocks_pinned]
    yield "clocks pinned", pinned
    yield "order", found.order


def _pairs(facts: Iterator[tuple[str, str]]) -> Element:
    return el("dl", *(part for name, text in facts for part in (el("dt", name), el("dd", text))))


def _subjects(report: Report) -> tuple[list[str], list[list[Child]]]:
    rows: list[list[Child]] = [
        [
            subject.name,
            subject.role,
            subject.backend or NONE,
            subject.precision or NONE,
            el("code", (subject.manifest_sha256 or subject.fingerprint or NONE)[:16]),
        ]
        for subject in report.subjects
    ]
    return ["model", "role", "backend", "precision", "manifest's SHA-256"], rows


def _settings(report: Report) -> tuple[list[str], list[list[Child]]]:
    told = {True: "on", False: "off", None: NONE}
    rows: list[list[Child]] = [
        [
            entry.model,
            entry.backend,
            ", ".join(f"{graph} {kind}" for graph, kind in entry.precisions.items()),
            told[entry.cuda_graphs],
            entry.transfers,
            "default" if entry.threads is None else str(entry.threads),
            str(entry.warm_up),
            str(entry.repeats),
        ]
        for entry in report.settings
    ]
    head = ["model", "backend", "precisions", "CUDA graphs", "transfers"]
    return [*head, "threads", "warm-up", "rounds"], rows
