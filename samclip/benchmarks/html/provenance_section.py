"""Sections on provenance: models, machine, versions and command, enough to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.etree.ElementTree import Element

from samclip.benchmarks.formats import NONE, digits, seconds
from samclip.benchmarks.html.elements import bullets, el, folded, show_table
from samclip.benchmarks.html.named_reports import NamedReport, NamedReports
from samclip.benchmarks.measurements import RunSettings
from samclip.benchmarks.records import Report, Subject
from samclip.benchmarks.tables import Column, Table, text_columns

GIB = 2**30


def provenance_section(reports: NamedReports) -> Iterator[Element]:
    """Return machine, versions, settings, command and definitions of each report."""
    yield el("h2", "How it was measured", id="how")
    for named in reports.all:
        yield from _one(named)


def _one(named: NamedReport) -> Iterator[Element]:
    report = named.report
    yield el("h3", f"{report.benchmark} ({named.name})")
    yield el("pre", el("code", report.command))
    facts = (part for name, text in _facts(report) for part in (el("dt", name), el("dd", text)))
    yield el("dl", *facts)
    yield show_table(subjects_table(report.subjects))
    if report.settings:
        yield show_table(settings_table(report.settings))
    if report.protocol:
        yield bullets(report.protocol)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    machine, threads, data = report.machine, report.threads, report.data
    yield "date", f"{report.date}, {digits(report.seconds)} s"
    yield "samclip", report.samclip
    yield "machine", machine.jetson or f"{machine.cpu}, {machine.machine}"
    yield "cores", f"{machine.usable_cores} usable of {machine.logical_cores}"
    yield "memory", f"{digits(machine.memory / GIB)} GiB" if machine.memory else "unknown"
    yield "GPU", ", ".join(machine.gpus) or "none"
    yield "system", f"{machine.system}, Python {machine.python}"
    yield "packages", _listed(machine.packages)
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
    yield "power mode", found.power_mode or "not readable on this machine"
    clocks = [f"{c.name} {c.lowest / 1e6:,.0f}-{c.highest / 1e6:,.0f} MHz" for c in found.clocks]
    yield "clocks", ", ".join(clocks) or "not readable on this machine"
    pinned = {True: "yes", False: "no: they can move", None: "not known"}[found.clocks_pinned]
    yield "clocks pinned", pinned
    yield "order", found.order


def subjects_table(subjects: Sequence[Subject]) -> Table:
    """Lay out the models, with the first digits of the hash that identifies them."""
    heads = ("model", "role", "backend", "precision", "manifest's SHA-256")
    rows = [
        (
            subject.name,
            subject.role,
            subject.backend,
            subject.precision,
            (subject.manifest_sha256 or subject.fingerprint or NONE)[:16],
        )
        for subject in subjects
    ]
    return Table(text_columns(*heads), rows)


def settings_table(settings: Sequence[RunSettings]) -> Table:
    """Lay out how models were run."""
    columns = (
        *text_columns("model", "backend", "precisions"),
        *map(Column, ("CUDA graphs", "transfers", "threads", "warm-up", "rounds")),
    )
    switch = {True: "on", False: "off", None: NONE}
    rows = [
        (
            entry.model,
            entry.backend,
            ", ".join(f"{graph} {kind}" for graph, kind in entry.precisions.items()),
            switch[entry.cuda_graphs],
            entry.transfers,
            "default" if entry.threads is None else entry.threads,
            entry.warm_up,
            entry.repeats,
        )
        for entry in settings
    ]
    return Table(columns, rows)


def participants_section(reports: NamedReports) -> Iterator[Element]:
    """Return who took part, with the versions of each environment; nothing without a list."""
    found = [one for named in reports.all for one in named.report.peers]
    if not found:
        return
    columns = (
        *text_columns("contender", "what it is", ""),
        Column("input", "{} px".format),
        Column("to load", seconds),
    )
    rows = [
        (one.name, one.what, one.reason or "ran", one.image_size, one.load_seconds) for one in found
    ]
    yield el("h2", "Who ran", id="peers")
    yield show_table(Table(columns, rows))
    versions = [
        f"{one.name}: Python {one.python}, {_listed(one.packages)}" for one in found if one.python
    ]
    yield folded("Versions of each environment", bullets(versions))


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
