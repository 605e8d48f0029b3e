"""What a task takes from the power supply, or why that is not known."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import NONE, digits
from samclip.benchmarks.html.sources import Sources


def energy_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where energy was not asked for."""
    found = [entry for source in sources.all for entry in source.report.energy]
    if not found:
        return
    yield el("h2", "What energy it takes", id="energy")
    rows: list[list[Child]] = [
        [
            entry.name,
            entry.model,
            entry.sensor or entry.reason or NONE,
            NONE if entry.per_run is None else f"{digits(entry.per_run)} J",
            str(entry.runs),
        ]
        for entry in found
    ]
    yield table(["what", "model", "sensor", "a run", "runs"], rows, left=3)
