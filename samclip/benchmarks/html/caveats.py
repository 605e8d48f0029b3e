"""What a reader must know before believing the figures."""

from __future__ import annotations

from collections.abc import Iterator

from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.latency.tables import warn_of_noise
from samclip.benchmarks.report import Report


def caveats(sources: Sources) -> Iterator[str]:
    """List doubts: noise, a busy machine, clocks that move, reports of different machines."""
    for source in sources.all:
        for line in (*warn_of_noise(source.report.timings), *_moving(source.report)):
            yield f"{source.name}: {line}"
        for subject in source.report.subjects:
            if subject.trained_head is False:
                yield f"{subject.name}: the head was never trained, so its names mean nothing."
    yield from _busy(sources)
    yield from _differences([source.report for source in sources.all])


def _moving(report: Report) -> Iterator[str]:
    if report.conditions is not None and report.conditions.clocks_pinned is False:
        yield "clocks could move while it was measured."


def _busy(sources: Sources) -> Iterator[str]:
    """Name the reports at whose end more processes wanted a core than there are."""
    found = {
        source.name: source.report.threads.load[0]
        for source in sources.all
        if source.report.threads.load is not None
        and source.report.threads.load[0] > source.report.machine.usable_cores + 0.5
    }
    if found:
        loads = ", ".join(f"{load:.1f} at the end of {name}" for name, load in found.items())
        cores = sources.all[0].report.machine.usable_cores
        yield (
            f"More processes wanted a core than there were cores ({cores}): {loads}. Other work "
            "was going on: ratios within one report hold better than seconds."
        )


def _differences(reports: list[Report]) -> Iterator[str]:
    machines = {(report.machine.cpu, report.machine.gpus) for report in reports}
    if len(machines) > 1:
        yield "The reports are of different machines: do not compare their seconds."
    versions = sorted({report.samclip for report in reports})
    if len(versions) > 1:
        yield f"The reports are of different versions of samclip: {', '.join(versions)}."
